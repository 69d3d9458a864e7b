"""What a training does when memory runs out: it repeats the step with less, instead of ending or skipping it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.memory import is_out_of_memory
from lora_train.models.storing import FULL


@dataclass(frozen=True)
class Eased:
    """A configuration that needs less memory for the same step, and what is different about it."""

    config: RunConfig
    what: str


def eased(config: RunConfig, pictures: int) -> Eased:
    """The next way to compute a step of `pictures` pictures a batch with less memory.

    First fewer pictures at once, which gives the same result up to rounding; then activations that are computed again;
    then a base that is stored in fp8.
    Raises LoraTrainError where nothing is left to try.
    """
    train = config.train
    at_once = min(train.micro_batch_size or pictures, pictures)
    if at_once > 1:
        fewer = (at_once + 1) // 2
        what = (
            f"with {fewer} of the {pictures} pictures of a batch at once instead of {at_once}; the result is the same"
        )
        return Eased(replace(config, train=replace(train, micro_batch_size=fewer)), what)
    if not train.gradient_checkpointing or (train.checkpointing_share or 1.0) < 1.0:
        what = "with gradient checkpointing of all blocks: slower, the result is the same"
        return Eased(replace(config, train=replace(train, gradient_checkpointing=True, checkpointing_share=None)), what)
    if train.base_precision in ("auto", FULL) and hasattr(torch, "float8_e4m3fn"):
        what = "with the base model stored in fp8, which is a little less exact"
        return Eased(replace(config, train=replace(train, base_precision="fp8")), what)
    raise out_of_memory()


def out_of_memory() -> LoraTrainError:
    """The error where nothing is left to try."""
    return LoraTrainError(
        "there is not enough memory, even for one picture at once.",
        "train",
        "Lower the resolution or the dimension, or close other programs, and resume the run.",
    )


@contextmanager
def undone_by_failure(optimizer: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Within the block the optimizer makes a step. Its first one allocates its state; where memory runs out in that,
    weights and optimizer are as before.

    Later steps allocate next to nothing; what they changed before a failure is not known. Raises LoraTrainError there.
    """
    first = not optimizer.state
    weights = [parameter.detach().to("cpu", copy=True) for parameter in parameters] if first else []
    groups = [_own(group) for group in optimizer.param_groups] if first else []
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if not first:
            raise out_of_memory() from error
        with torch.no_grad():
            for parameter, before in zip(parameters, weights):
                parameter.copy_(before)
        optimizer.state.clear()
        for group, own in zip(optimizer.param_groups, groups):
            group.update(own)
        raise


def _own(group: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in group.items()
        if name != "params"
    }
