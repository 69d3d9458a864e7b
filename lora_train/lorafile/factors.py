"""The mathematics of the tools: a delta as two factors, cut to a rank by its singular values.

A delta is (out, n) here: a convolution's (out, in, k, k) is flattened after `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.layouts import ALPHA, DOWN, MID, SPARSE, UP
from lora_train.networks.full import BIAS
from lora_train.networks.lora import lora_delta
from lora_train.networks.sparse import dense


@dataclass(frozen=True)
class Factors:
    """delta = up down, in fp32: `up` (out, r), `down` (r, n); `shape` is the delta's shape after `out`."""

    up: torch.Tensor
    down: torch.Tensor
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The inner dimension; the product's rank may be less."""
        return self.down.shape[0]

    def delta(self) -> torch.Tensor:
        """The product in the weight's shape."""
        return lora_delta(self.down, self.up, 1.0).reshape(-1, *self.shape)

    def tensors(self) -> dict[str, torch.Tensor]:
        """kohya's tensors; alpha is the rank, so the factors are not scaled."""
        ones = [1] * (len(self.shape) - 1)
        return {
            ALPHA: torch.tensor(float(self.rank)),
            DOWN: self.down.reshape(self.rank, *self.shape),
            UP: self.up.reshape(*self.up.shape, *ones),
        }


def alpha_of(parts: Mapping[str, torch.Tensor]) -> float:
    """Alpha of a LoRA module; missing or 0 means the rank, as in sd-scripts."""
    return (float(parts[ALPHA]) if ALPHA in parts else 0.0) or float(parts[DOWN].shape[0])


def has_factors(parts: Mapping[str, torch.Tensor]) -> bool:
    """Whether a module's weight delta is a plain LoRA (two factors), also with a sparse part."""
    return {DOWN, UP} <= parts.keys() <= {DOWN, UP, MID, ALPHA, BIAS, *SPARSE}


def factors_of(parts: Mapping[str, torch.Tensor]) -> Factors:
    """A LoRA module's factors, alpha multiplied in. A Tucker core (r, r, k, k) is contracted into `down`; a sparse
    part adds as many ranks as it has rows or columns."""
    down, up = parts[DOWN].float(), parts[UP].float().flatten(1)
    scale = alpha_of(parts) / down.shape[0]
    if MID in parts:
        down = torch.einsum("mnkl,nixy->mikl", parts[MID].float(), down)
    shape, flat = tuple(down.shape[1:]), down.flatten(1)
    if SPARSE[0] in parts:
        left, right = _thin(dense(parts).reshape(len(up), -1))
        up, flat = torch.cat([up, left], 1), torch.cat([flat, right])
    return Factors(up * scale, flat, shape)


def _thin(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix as a product of two, with as many inner dimensions as it has nonzero rows or columns, the fewer."""
    rows, columns = matrix.any(1).nonzero().flatten(), matrix.any(0).nonzero().flatten()
    if len(rows) <= len(columns):
        return torch.eye(len(matrix))[:, rows], matrix[rows]
    return matrix[:, columns], torch.eye(matrix.shape[1])[columns]


Choice = Callable[[torch.Tensor, float], int]


def _by_ratio(values: torch.Tensor, ratio: float) -> int:
    """The number of singular values above the largest divided by `ratio`."""
    return int((values > values[0] / ratio).sum())


def _by_cumulative(values: torch.Tensor, share: float) -> int:
    """The fewest whose sum reaches this share of the sum of all singular values."""
    return _fewest(values, share)


def _by_frobenius(values: torch.Tensor, share: float) -> int:
    """The fewest that keep this share of the delta's Frobenius norm."""
    return _fewest(values.square(), share**2)


def _fewest(values: torch.Tensor, share: float) -> int:
    sums = values.double().cumsum(0)
    return int((sums < share * sums[-1] * (1 - 1e-12)).sum()) + 1


CHOICES: dict[str, Choice] = {"ratio": _by_ratio, "cumulative": _by_cumulative, "frobenius": _by_frobenius}
"""How a rank follows from singular values in descending order (kohya's sv_ratio, sv_cumulative, sv_fro)."""


@dataclass(frozen=True)
class Cut:
    """How much of a delta is kept: at most `rank`, and by `keep` as many as reach `amount`."""

    rank: int | None = None
    keep: str = ""
    """A key of CHOICES, or empty."""
    amount: float = 1.0

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise LoraTrainError(f"a rank of {self.rank} is not possible.", "rank", "Give a whole number from 1.")
        if self.keep and self.keep not in CHOICES:
            raise LoraTrainError(f"{self.keep!r} is not known.", "keep", f"Give one of {', '.join(CHOICES)}.")
        top = float("inf") if self.keep == "ratio" else 1.0
        if self.keep and not (1.0 if self.keep == "ratio" else 0.0) < self.amount <= top:
            allowed = "more than 1" if self.keep == "ratio" else "above 0, up to 1"
            raise LoraTrainError(f"{self.amount:g} cannot be kept by {self.keep}.", "amount", f"Give {allowed}.")

    def of(self, values: torch.Tensor) -> int:
        """The rank to keep of a delta with these singular values (descending); at least 1."""
        if not len(values) or values[0] <= 0:
            return 1
        wanted = CHOICES[self.keep](values, self.amount) if self.keep else len(values)
        return max(1, min(wanted, self.rank or len(values), len(values)))


def cut_factors(factors: Factors, cut: Cut) -> tuple[Factors, float]:
    """The best factors of the cut's rank (Eckart-Young), and the share of the Frobenius norm that they keep.

    The SVD of a product of thin matrices is found through their QR decompositions, never forming the product.
    """
    if factors.rank >= min(factors.up.shape[0], factors.down.shape[1]):
        return cut_delta(factors.up @ factors.down, factors.shape, cut)
    q_up, r_up = torch.linalg.qr(factors.up)
    q_down, r_down = torch.linalg.qr(factors.down.T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    return _kept(q_up @ left, values, right @ q_down.T, factors.shape, cut)


def cut_delta(delta: torch.Tensor, shape: tuple[int, ...], cut: Cut, clamp: float = 1.0) -> tuple[Factors, float]:
    """Like `cut_factors`, for a full delta (out, n).

    With `clamp` below 1, singular vectors' entries are clamped to that quantile of them, as kohya's
    `extract_lora_from_models.py` does against single large values.
    """
    left, values, right = torch.linalg.svd(delta.float(), full_matrices=False)
    return _kept(left, values, right, shape, cut, clamp)


def _kept(
    left: torch.Tensor, values: torch.Tensor, right: torch.Tensor, shape: tuple[int, ...], cut: Cut, clamp: float = 1.0
) -> tuple[Factors, float]:
    rank = cut.of(values)
    whole = float(values.double().norm())
    share = float(values[:rank].double().norm()) / whole if whole else 1.0
    left, right, kept = left[:, :rank], right[:rank], values[:rank]
    if clamp < 1.0:
        top = _quantile(torch.cat([left.flatten(), right.flatten()]), clamp)
        left, right = left.clamp(-top, top), right.clamp(-top, top)
    root = kept.clamp_min(0).sqrt()  # on both sides, so that half precision loses least
    return Factors(left * root, root[:, None] * right, shape), share


def _quantile(values: torch.Tensor, share: float) -> float:
    """`torch.quantile` refuses more than 16 million values."""
    position = min(len(values) - 1, round(share * (len(values) - 1)))
    return float(values.kthvalue(position + 1).values)
