"""One training step as rows.

A step has a timestep t and noise e. A row is an input x with a caption c, the multiplier m of the
network, a weight and a mask:

    loss = sum over rows of  weight * w(t) * mean( mask * cost(student_m(x_t, t, c), y) )
    y    = true(x) + sum_j a_j * ( base(x_j, t, c_j) - true(x_j) )

`true` is the family's own target, `base` the prediction with the network at 0, and `cost` the run's loss, usually
(student - y)^2. x_t is x with the noise in the model's input, usually e. Ordinary training is one row with m = 1 and
no a_j.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from lora_train.models.base import BaseModel, Conditioning
from lora_train.networks.inject import NetworkSet
from lora_train.train.losses import squared

Encode = Callable[[Sequence[str]], Conditioning]
Cost = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(prediction, target, timesteps) -> the loss at every position."""


@dataclass(frozen=True)
class BaseTerm:
    """a * ( base(x, t, c) - true(x) )."""

    factor: float
    x: torch.Tensor
    captions: Sequence[str]

    def part(self, some: slice) -> BaseTerm:
        """The term for some of the pictures."""
        return BaseTerm(self.factor, self.x[some], self.captions[some])


@dataclass(frozen=True)
class Row:
    """One row as in the module's docstring; `x` are scaled latents (B, C, h, w)."""

    x: torch.Tensor
    captions: Sequence[str]
    multiplier: float = 1.0
    weight: float | torch.Tensor = 1.0
    """One for all pictures, or one for each (B,)."""
    mask: torch.Tensor | None = None
    terms: tuple[BaseTerm, ...] = ()
    extra: Conditioning = field(default_factory=dict)
    """The family's extra inputs for these pictures, in the row's own prediction and in its terms'."""

    def part(self, some: slice) -> Row:
        """The row for some of the pictures."""
        return replace(
            self,
            x=self.x[some],
            captions=self.captions[some],
            weight=self.weight[some] if isinstance(self.weight, torch.Tensor) else self.weight,
            mask=None if self.mask is None else self.mask[some],
            terms=tuple(term.part(some) for term in self.terms),
            extra={name: value[some] for name, value in self.extra.items()},
        )


@dataclass(frozen=True)
class Draw:
    """What a step draws: noise e (B, C, h, w), timesteps (B,), and the weight w(t) of each picture (B,)."""

    noise: torch.Tensor
    t: torch.Tensor
    weight: torch.Tensor
    seen: torch.Tensor | None = None
    """The noise in the model's input; None: e itself."""

    def part(self, some: slice) -> Draw:
        """The draw of some of the pictures."""
        seen = None if self.seen is None else self.seen[some]
        return Draw(self.noise[some], self.t[some], self.weight[some], seen)

    @property
    def in_input(self) -> torch.Tensor:
        """The noise in the model's input."""
        return self.noise if self.seen is None else self.seen


def backward(
    model: BaseModel,
    network: NetworkSet,
    rows: Sequence[Row],
    draw: Draw,
    encode: Encode,
    scale: Callable[[torch.Tensor], torch.Tensor],
    autocast: torch.autocast,
    cost: Cost = squared,
) -> torch.Tensor:
    """Run all rows forward and backward; returns the unscaled loss per picture (B,), detached.

    `scale` is applied before the backward pass (accumulation, loss scaling). Each row's backward is
    done before the next begins, so that the multiplier is unchanged while checkpointed parts run again.
    """
    total = torch.zeros(len(draw.t), device=draw.t.device)
    for row in rows:
        with network.at(row.multiplier), autocast:
            target = _target(model, network, row, draw, encode)
            noisy = model.noised(row.x, draw.in_input, draw.t)
            predicted = model.predict(noisy, draw.t, {**encode(row.captions), **row.extra})
            error = cost(predicted.float(), target.float(), draw.t)
            if row.mask is not None:
                error = error * row.mask
            losses = row.weight * draw.weight * error.mean(dim=tuple(range(1, error.ndim)))
        with network.at(row.multiplier):
            if losses.requires_grad:  # not where module dropout left every network out
                scale(losses.mean()).backward()  # type: ignore[no-untyped-call]
        total += losses.detach()
    return total


def _target(model: BaseModel, network: NetworkSet, row: Row, draw: Draw, encode: Encode) -> torch.Tensor:
    target = model.target(row.x, draw.noise, draw.t)
    with torch.no_grad(), network.at(0.0):
        for term in row.terms:
            noisy = model.noised(term.x, draw.in_input, draw.t)
            base = model.predict(noisy, draw.t, {**encode(term.captions), **row.extra}).float()
            target = target + term.factor * (base - model.target(term.x, draw.noise, draw.t))
    return target
