"""One training step as rows.

A step has a time t and noise e. A row is an input x with a caption c, the multiplier m of the
network, a weight and a mask:

    loss = sum over rows of  weight * w(t) * mean( mask * (student_m(x_t, t, c) - y)^2 )
    y    = true(x) + sum_j a_j * ( base(x_j, t, c_j) - true(x_j) )

`true` is the family's own target and `base` the prediction with the network at 0. Ordinary training
is one row with m = 1 and no a_j.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lora_train.models.base import BaseModel, Conditioning
from lora_train.networks.inject import NetworkSet

Encode = Callable[[Sequence[str]], Conditioning]


@dataclass(frozen=True)
class BaseTerm:
    """a * ( base(x, t, c) - true(x) )."""

    factor: float
    x: torch.Tensor
    captions: Sequence[str]


@dataclass(frozen=True)
class Row:
    """See the module's text; `x` are scaled latents (B, C, h, w)."""

    x: torch.Tensor
    captions: Sequence[str]
    multiplier: float = 1.0
    weight: float = 1.0
    mask: torch.Tensor | None = None
    terms: tuple[BaseTerm, ...] = ()
    extra: Conditioning = field(default_factory=dict)
    """The family's extra inputs for these pictures, in the row's own prediction and in its terms'."""


@dataclass(frozen=True)
class Draw:
    """What a step draws: noise (B, C, h, w), times (B,), and the weight w(t) of each picture (B,)."""

    noise: torch.Tensor
    t: torch.Tensor
    weight: torch.Tensor


def backward(
    model: BaseModel,
    network: NetworkSet,
    rows: Sequence[Row],
    draw: Draw,
    encode: Encode,
    scale: Callable[[torch.Tensor], torch.Tensor],
    autocast: torch.autocast,
) -> torch.Tensor:
    """Run all rows forward and backward; returns the unscaled loss per picture (B,), detached.

    `scale` is applied before the backward pass (accumulation, loss scaling). Each row's backward is
    done before the next begins, so that the multiplier holds while checkpointed parts run again.
    """
    total = torch.zeros(len(draw.t), device=draw.t.device)
    for row in rows:
        with network.at(row.multiplier), autocast:
            target = _target(model, network, row, draw, encode)
            noisy = model.noised(row.x, draw.noise, draw.t)
            predicted = model.predict(noisy, draw.t, {**encode(row.captions), **row.extra})
            error = (predicted.float() - target.float()) ** 2
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
            noisy = model.noised(term.x, draw.noise, draw.t)
            base = model.predict(noisy, draw.t, {**encode(term.captions), **row.extra}).float()
            target = target + term.factor * (base - model.target(term.x, draw.noise, draw.t))
    return target


def min_snr_weight(snr: torch.Tensor, gamma: float, prediction_type: str) -> torch.Tensor:
    """min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v (Hang et al. 2023, arXiv 2303.09556)."""
    capped = snr.clamp(max=gamma)
    return capped / (snr + 1) if prediction_type == "v_prediction" else capped / snr.clamp(min=1e-12)


def draw_noise(shape: torch.Size, offset: float, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise, with a random constant per picture and channel when `offset` is set.

    Noise offset: N. Guttenberg, "Diffusion with offset noise", 2023.
    """
    noise = torch.randn(shape, generator=generator)
    if offset:
        noise += offset * torch.randn((*shape[:2], 1, 1), generator=generator)
    return noise
