"""The similarity of two LoRAs, module by module, without forming their deltas."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.factors import Factors, factors_of
from lora_train.lorafile.reading import LoraFile
from lora_train.lorafile.resizing import require_factors
from lora_train.lorafile.writing import Progress, no_progress


@dataclass(frozen=True)
class ModuleDifference:
    """Two deltas of one module; norms are Frobenius norms."""

    name: str
    norm_a: float
    norm_b: float
    difference: float
    """Norm of the difference."""
    cosine: float
    """1: the same direction, 0: nothing in common; 0 if a delta is zero."""


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    modules: tuple[ModuleDifference, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]

    @property
    def cosine(self) -> float:
        """The cosine of all common modules as one vector."""
        dot = sum(one.cosine * one.norm_a * one.norm_b for one in self.modules)
        norms = [sum(getattr(one, side) ** 2 for one in self.modules) ** 0.5 for side in ("norm_a", "norm_b")]
        return dot / (norms[0] * norms[1]) if norms[0] and norms[1] else 0.0


def compare(a: LoraFile, b: LoraFile, progress: Progress = no_progress) -> Comparison:
    """Compare the deltas of `a` and `b`. Raises LoraTrainError for kinds that two factors cannot express."""
    for file in (a, b):
        require_factors(file, "compared")
    of_a, of_b = a.by_module(), b.by_module()
    common = sorted(of_a.keys() & of_b.keys())
    found = []
    for number, name in enumerate(common):
        progress(number, len(common))
        found.append(_difference(name, factors_of(of_a[name]), factors_of(of_b[name]), f"{a.path.name}, {b.path.name}"))
    progress(len(common), len(common))
    return Comparison(tuple(found), tuple(sorted(of_a.keys() - of_b)), tuple(sorted(of_b.keys() - of_a)))


def inner(a: Factors, b: Factors) -> float:
    """<A, B> = trace(A^T B) of two deltas, from their factors: sum((up_a^T up_b) * (down_a down_b^T))."""
    ups = a.up.double().T @ b.up.double()
    return float((ups * (a.down.double() @ b.down.double().T)).sum())


def norm(factors: Factors) -> float:
    """The delta's Frobenius norm."""
    return max(0.0, inner(factors, factors)) ** 0.5


def _difference(name: str, a: Factors, b: Factors, where: str) -> ModuleDifference:
    if (a.up.shape[0], *a.shape) != (b.up.shape[0], *b.shape):
        raise LoraTrainError(
            f"{name} has different shapes in the files.", where, "Compare LoRAs of the same base model."
        )
    norm_a, norm_b = norm(a), norm(b)
    apart = norm(Factors(torch.cat([a.up, -b.up], 1), torch.cat([a.down, b.down]), a.shape))
    cosine = inner(a, b) / (norm_a * norm_b) if norm_a and norm_b else 0.0
    return ModuleDifference(name, norm_a, norm_b, apart, max(-1.0, min(1.0, cosine)))
