"""LoKr: W' = W + (alpha / rank) w1 (x) w2, a Kronecker product of a small and a large matrix, each whole or of
two factors (Edalati et al. 2022, KronA, arXiv 2212.10650; LyCORIS).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import (
    MATRICES,
    Form,
    NetworkModule,
    alpha_of,
    require,
    shape_of,
    two_factors,
    uniform,
)

LEFT, LEFT_PAIR = "lokr_w1", ("lokr_w1_a", "lokr_w1_b")
RIGHT, RIGHT_PAIR, CORE = "lokr_w2", ("lokr_w2_a", "lokr_w2_b"), "lokr_t2"
PARTS = (LEFT, *LEFT_PAIR, RIGHT, *RIGHT_PAIR, CORE)


def lokr_delta(w1: torch.Tensor, w2: torch.Tensor, scale: float) -> torch.Tensor:
    """scale * w1 (x) w2: (a, c) and (b, d * k * k) to (a * b, c * d * k * k)."""
    return scale * torch.kron(w1, w2)


def factorization(dimension: int, factor: int = -1) -> tuple[int, int]:
    """Two numbers with the product `dimension`, the smaller one first: `factor` and the quotient if it divides,
    otherwise the most equal pair whose smaller number is at most `factor` (-1: any). As in LyCORIS."""
    if factor > 0 and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    limit = dimension if factor < 0 else factor
    small = max(m for m in range(1, dimension + 1) if dimension % m == 0 and m <= max(1, limit) and m * m <= dimension)
    return small, dimension // small


class LokrModule(NetworkModule):
    """The parts of `PARTS` that this module has; a matrix that is not decomposed has no factors."""

    up_parameters = (RIGHT, RIGHT_PAIR[1])

    def __init__(self, values: Mapping[str, torch.Tensor], alpha: float) -> None:
        super().__init__()
        for name in PARTS:
            self.register_parameter(name, nn.Parameter(values[name]) if name in values else None)
        self.alpha = alpha
        rank = _rank(values)
        # without factors there is no rank to divide by: files have alpha = rank, and no reader scales
        self.scale = alpha / rank if rank else 1.0

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        w1 = self.lokr_w1 if self.lokr_w1 is not None else self.lokr_w1_a @ self.lokr_w1_b
        if self.lokr_w2 is not None:
            w2 = self.lokr_w2
        elif self.lokr_t2 is not None:
            w2 = two_factors(self.lokr_w2_a.T, self.lokr_w2_b, self.lokr_t2)
        else:
            w2 = self.lokr_w2_a @ self.lokr_w2_b.flatten(1)
        return lokr_delta(w1, w2.flatten(1), self.scale).reshape(weight.shape)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """LyCORIS' keys."""
        return {"alpha": torch.tensor(float(self.alpha)), **{n: p.detach() for n, p in self.named_parameters()}}

    @torch.no_grad()
    def shrink(self, ratio: float) -> None:
        (self.lokr_w1 if self.lokr_w1 is not None else self.lokr_w1_a).mul_(ratio)


class Lokr:
    """The kind "lokr"."""

    bases = MATRICES

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> LokrModule:
        """Not decomposed if the rank is half of the side or more, as in LyCORIS."""
        out, into, *kernel = shape_of(target)
        (a, b), (c, d) = factorization(out, form.factor), factorization(into, form.factor)
        if form.unbalanced_factorization:
            a, b = b, a
        rank, whole_kernel = form.rank, torch.Size(kernel).numel()
        values: dict[str, torch.Tensor] = {}
        if form.decompose_both and rank < max(a, c) / 2 and not form.full_matrix:
            values |= {LEFT_PAIR[0]: uniform((a, rank), generator), LEFT_PAIR[1]: uniform((rank, c), generator)}
        else:
            values[LEFT] = uniform((a, c), generator)
        if form.full_matrix or rank >= max(b, d) / 2:
            values[RIGHT] = torch.zeros(b, d, *kernel)
        elif form.use_tucker and whole_kernel > 1:
            values[CORE] = uniform((rank, rank, *kernel), generator)
            values |= {RIGHT_PAIR[0]: uniform((rank, b), generator), RIGHT_PAIR[1]: torch.zeros(rank, d)}
        else:
            values[RIGHT_PAIR[0]] = uniform((b, rank), generator)
            values[RIGHT_PAIR[1]] = torch.zeros(rank, d * whole_kernel)
        return LokrModule(values, form.file_alpha if _rank(values) else float(rank))

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> LokrModule:
        values = {name: tensors[name].float() for name in PARTS if name in tensors}
        out, *rest = shape_of(target)
        (a, c), (b, d) = _left_shape(values), _right_shape(values)
        require(a * b == out and c * d == torch.Size(rest).numel(), tensors, target)
        return LokrModule(values, alpha_of(tensors, _rank(values) or 1))


def _rank(values: Mapping[str, torch.Tensor]) -> int:
    """The rank of the factors; 0 if neither matrix is decomposed."""
    pair = next((pair for pair in (LEFT_PAIR, RIGHT_PAIR) if pair[1] in values), None)
    return values[pair[1]].shape[0] if pair else 0


def _left_shape(values: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """(a, c); (0, 0) if the parts do not fit each other."""
    if LEFT in values:
        return values[LEFT].shape[0], values[LEFT][0].numel()
    a, b = (values[name] for name in LEFT_PAIR)
    return (a.shape[0], b.shape[1]) if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] else (0, 0)


def _right_shape(values: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """(b, d * k * k); (0, 0) if the parts do not fit each other."""
    if RIGHT in values:
        return values[RIGHT].shape[0], values[RIGHT][0].numel()
    a, b = (values[name] for name in RIGHT_PAIR)
    if CORE in values:
        core = values[CORE]
        fits = a.ndim == b.ndim == 2 and tuple(core.shape[:2]) == (a.shape[0], b.shape[0])
        return (a.shape[1], b.shape[1] * core[0, 0].numel()) if fits else (0, 0)
    return (a.shape[0], b[0].numel()) if a.ndim == 2 and a.shape[1] == b.shape[0] else (0, 0)
