"""Optimizers; see `config.training_methods.OPTIMIZERS` for the signature."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from lora_train.config import RunConfig
from lora_train.config.optimizer_args import all_arguments
from lora_train.errors import LoraTrainError

Groups = list[dict[str, Any]]
"""Parameter groups with their `base_lr`, see `network.parameter_groups`."""


def adamw(groups: Groups, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), fused on a GPU."""
    on_gpu = groups[0]["params"][0].device.type == "cuda"
    return _made(torch.optim.AdamW, groups, {"fused": True if on_gpu else None, **all_arguments(config)})


def adafactor(groups: Groups, config: RunConfig) -> torch.optim.Optimizer:
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235), with the given learning rate.

    With relative_step=True it finds the rate itself; transformers then requires none.
    """
    given = {"relative_step": False, "scale_parameter": False, **all_arguments(config)}
    if given["relative_step"]:
        given["lr"] = None
    return _made(found("transformers.optimization:Adafactor"), groups, given)


def by_class(where: str, usual: Mapping[str, Any], groups: Groups, config: RunConfig) -> torch.optim.Optimizer:
    """An optimizer of the class at `where` ("package.module:Class"); the run's arguments override `usual`.

    Raises LoraTrainError when it is not installed, or does not have such an argument.
    """
    return _made(found(where), groups, {**usual, **all_arguments(config)})


def one_rate(where: str, usual: Mapping[str, Any], groups: Groups, config: RunConfig) -> torch.optim.Optimizer:
    """`by_class` for an optimizer that finds one rate for all parameters. Raises LoraTrainError."""
    rates = sorted({group["base_lr"] for group in groups})
    if len(rates) > 1:
        raise LoraTrainError(
            f"{config.train.optimizer} finds one learning rate for all, but these differ: "
            f"{', '.join(f'{rate:g}' for rate in rates)}.",
            "train.optimizer",
            "Give one rate for UNet and text encoder (train.learning_rate; 1 is usual), or train the UNet only.",
        )
    return by_class(where, usual, groups, config)


def found(where: str) -> type[torch.optim.Optimizer]:
    """The class at "package.module:Class". Raises LoraTrainError when it cannot be imported."""
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise LoraTrainError(
            f"{name} cannot be imported: {error}.",
            "train.optimizer",
            "Install or update its package, or choose another.",
        ) from error


def _made(kind: type[torch.optim.Optimizer], groups: Groups, arguments: Mapping[str, Any]) -> torch.optim.Optimizer:
    """An optimizer of this class. A weight decay that it does not have is ignored; other arguments are refused."""
    known = inspect.signature(kind).parameters
    given = {name: value for name, value in arguments.items() if name in known or name != "weight_decay"}
    odd = [name for name in given if name not in known]
    if odd:
        others = [name for name in known if name not in ("params", "lr")]
        what = f"{kind.__name__} has no argument {', '.join(odd)}."
        raise LoraTrainError(what, "train.optimizer_args", f"It has: {', '.join(others)}.")
    try:
        return kind(groups, **{"lr": groups[0]["base_lr"], **given})  # type: ignore[arg-type]
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        what = f"{kind.__name__} refuses its arguments: {error}."
        raise LoraTrainError(what, "train.optimizer_args", "Give other values.") from error
