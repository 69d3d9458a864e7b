"""What a step does without, where the GPU's free memory is less than it needs: chosen before the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lora_train.config.run import RunConfig
from lora_train.errors import LoraTrainError

SHARE_OF_PEAK, REST = 0.05, 300_000_000
"""What is kept free besides the predicted peak: a share of it for memory in pieces, and what kernels need inside."""


@dataclass(frozen=True)
class Choice:
    """One chosen value, and the reason."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True)
class Means:
    """What decides how much memory a step needs, besides what is trained."""

    pictures: int
    """How many go through the model at once."""
    share: float
    """The share of blocks whose activations are computed again."""
    base: str
    """How the frozen base is stored, a name of BASE_PRECISIONS."""


Predict = Callable[[RunConfig, Means], int]
"""The bytes that a step of the run holds at its peak."""


def plan(config: RunConfig, free: int | None, predict: Predict | None) -> tuple[RunConfig, list[Choice]]:
    """Choose how much is computed again, how many pictures go through the model at once, and how the base is stored,
    so that a step fits into `free` bytes. What a person has set is kept; without both numbers nothing is given up.

    First fewer pictures at once, which costs least; then blocks that are computed again, as few as are enough; then the
    base in fp8. Raises LoraTrainError where nothing fits.
    """
    if free is None or predict is None:
        return _with(config, _given(config)), []
    wanted = _given(config)
    needed = predict(config, wanted)
    attempts = list(_attempts(config, wanted))
    means = next((one for one in attempts if _fits(predict(config, one), free)), attempts[-1])
    if predict(config, means) > free:
        raise _too_large(config, means, free, predict)
    means = _fewer_blocks(config, means, free, predict)
    return _with(config, means), _choices(config, wanted, means, needed, free)


def _given(config: RunConfig) -> Means:
    """What a person has set, and what costs nothing where they have not."""
    train = config.train
    share = (train.checkpointing_share or 1.0) if _recomputes(config) else 0.0
    return Means(
        train.micro_batch_size or config.data.batch_size,
        share,
        "full" if train.base_precision == "auto" else train.base_precision,
    )


def _recomputes(config: RunConfig) -> bool:
    """Whether a person has asked for checkpointing."""
    train = config.train
    return train.gradient_checkpointing is True or (
        train.gradient_checkpointing is None and train.checkpointing_share is not None
    )


def _attempts(config: RunConfig, wanted: Means) -> Iterator[Means]:
    """From what costs least to what costs most; each sets everything that is open."""
    train = config.train
    bases = ["full", "fp8"] if train.base_precision == "auto" else [train.base_precision]
    shares = [0.0, 1.0] if train.gradient_checkpointing is None and not wanted.share else [wanted.share]
    for base in bases:
        for share in shares:
            if base != bases[0] and share != shares[-1]:
                continue  # the base is made less exact only where nothing else is enough
            for pictures in [wanted.pictures] if train.micro_batch_size else _halves(wanted.pictures):
                yield Means(pictures, share, base)


def _halves(pictures: int) -> list[int]:
    """8, 4, 2, 1 of 8."""
    found = [pictures]
    while found[-1] > 1:
        found.append((found[-1] + 1) // 2)
    return found


def _fewer_blocks(config: RunConfig, means: Means, free: int, predict: Predict) -> Means:
    """The same with fewer blocks computed again, where that still fits: two guesses, since each takes a while."""
    if means.share < 1 or config.train.checkpointing_share is not None or config.train.gradient_checkpointing:
        return means
    most, least = predict(config, replace(means, share=0.0)), predict(config, means)
    room = (free - REST) / (1 + SHARE_OF_PEAK)
    guess = (most - room) / max(1, most - least)
    for share in (round(guess + 0.1, 2), round(guess + 0.3, 2)):
        if 0 < share < 0.95 and _fits(predict(config, replace(means, share=share)), free):
            return replace(means, share=share)
    return means


def _fits(needed: int, free: int) -> bool:
    return needed * (1 + SHARE_OF_PEAK) + REST <= free


def _with(config: RunConfig, means: Means) -> RunConfig:
    train = config.train
    share = means.share if 0 < means.share < 1 else train.checkpointing_share
    at_once = means.pictures if means.pictures < config.data.batch_size else train.micro_batch_size
    return replace(
        config,
        train=replace(
            train,
            gradient_checkpointing=means.share > 0,
            checkpointing_share=share,
            micro_batch_size=at_once,
            base_precision=means.base,
        ),
    )


def _choices(config: RunConfig, wanted: Means, means: Means, needed: int, free: int) -> list[Choice]:
    """A sentence for each thing that is given up."""
    why = f"{_gb(free)} are free on the GPU, and a step needs about {_gb(needed)} without"
    found = []
    if means.pictures != wanted.pictures:
        found.append(Choice("train.micro_batch_size", means.pictures, f"{why}; the result is the same"))
    if means.share != wanted.share:
        found.append(Choice("train.gradient_checkpointing", True, f"{why}; slower, the result is the same"))
        if means.share < 1:
            what = "as many blocks as the free memory needs; the others keep what they computed, which is faster"
            found.append(Choice("train.checkpointing_share", means.share, what))
    if means.base != wanted.base:
        found.append(Choice("train.base_precision", means.base, f"{why}; the base is a little less exact"))
    return found


def _too_large(config: RunConfig, least: Means, free: int, predict: Predict) -> LoraTrainError:
    """The error where not even `least` fits: what it needs, and what would fit."""
    side, rank = config.data.resolution or 0, config.network.network_dim
    tried = {
        "train.gradient_checkpointing on": replace(least, share=1.0),
        "train.micro_batch_size 1": replace(least, pictures=1),
        "train.base_precision fp8": replace(least, base="fp8"),
        "train.base_precision nf4": replace(least, base="nf4"),
    }
    whole = Means(1, 1.0, "nf4")
    found = {name: predict(config, means) for name, means in tried.items() if means != least}
    fitting = [f"{name} ({_gb(needed)})" for name, needed in found.items() if _fits(needed, free)]
    if not fitting and len(found) > 1 and _fits(needed := predict(config, whole), free):
        fitting.append(f"{', '.join(found)} together ({_gb(needed)})")
    for smaller in (768, 512, 384, 256):
        other = replace(config, data=replace(config.data, resolution=smaller))
        if smaller < side and not fitting and _fits(needed := predict(other, whole), free):
            fitting.append(f"data.resolution {smaller} with train.base_precision nf4 ({_gb(needed)})")
    fix = f"This would fit: {' or '.join(fitting)}." if fitting else "Nothing that is known here would fit."
    what = f"a step with dimension {rank} at {side} px needs about {_gb(predict(config, least))}, and {_gb(free)}"
    return LoraTrainError(f"{what} are free on the GPU.", "train", f"{fix} Or close other programs that use the GPU.")


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
