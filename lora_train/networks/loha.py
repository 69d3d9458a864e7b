"""LoHa: W' = W + (alpha / rank) (w1_a w1_b) * (w2_a w2_b), elementwise (Hyeon-Woo et al. 2021, FedPara,
arXiv 2108.06098; LyCORIS). With Tucker cores t1 and t2 for k x k convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import MATRICES, Form, NetworkModule, alpha_of, require, shape_of, two_factors

FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
CORES = ("hada_t1", "hada_t2")


def loha_delta(
    first: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    second: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    scale: float,
) -> torch.Tensor:
    """scale * (a1 b1) * (a2 b2), elementwise. Each side is (a, b, core or None).

    Without a core a is (out, rank) and b (rank, in * k * k); with one a is (rank, out), b (rank, in), as LyCORIS
    stores them, and the core (rank, rank, k, k).
    """
    products = [two_factors(a if core is None else a.T, b, core) for a, b, core in (first, second)]
    return scale * products[0] * products[1]


class LohaModule(NetworkModule):
    """Two pairs of matrices, with optional cores."""

    up_parameters = ("hada_w2_a",)

    def __init__(self, values: Mapping[str, torch.Tensor], alpha: float) -> None:
        super().__init__()
        for name in FACTORS + CORES:
            self.register_parameter(name, nn.Parameter(values[name]) if name in values else None)
        self.alpha = alpha
        self.scale = alpha / values["hada_w1_b"].shape[0]

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        first = (self.hada_w1_a, self.hada_w1_b, self.hada_t1)
        return loha_delta(first, (self.hada_w2_a, self.hada_w2_b, self.hada_t2), self.scale).reshape(weight.shape)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """LyCORIS' keys."""
        return {"alpha": torch.tensor(float(self.alpha)), **{n: p.detach() for n, p in self.named_parameters()}}

    @torch.no_grad()
    def shrink(self, ratio: float) -> None:
        self.hada_w1_a.mul_(ratio**0.5)
        self.hada_w2_a.mul_(ratio**0.5)


class Loha:
    """The kind "loha"."""

    bases = MATRICES

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> LohaModule:
        """Standard deviations 0.1, 1, 0 and 1 (cores 0.1), as in LyCORIS."""
        out, into, *kernel = shape_of(target)
        tucker = form.use_tucker and kernel not in ([], [1, 1])
        width = into if tucker else into * torch.Size(kernel).numel()
        a_shape = (form.rank, out) if tucker else (out, form.rank)
        values = {
            "hada_w1_a": 0.1 * torch.randn(a_shape, generator=generator),
            "hada_w1_b": torch.randn(form.rank, width, generator=generator),
            "hada_w2_a": torch.zeros(a_shape),
            "hada_w2_b": torch.randn(form.rank, width, generator=generator),
        }
        if tucker:
            for name in CORES:
                values[name] = 0.1 * torch.randn(form.rank, form.rank, *kernel, generator=generator)
        return LohaModule(values, form.file_alpha)

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> LohaModule:
        out, into, *kernel = shape_of(target)
        values = {name: tensors[name].float() for name in FACTORS + CORES if name in tensors}
        rank, tucker = values["hada_w1_b"].shape[0], CORES[0] in values
        width = into if tucker else into * torch.Size(kernel).numel()
        a_shape = (rank, out) if tucker else (out, rank)
        fits = all(
            tuple(values[f"hada_w{i}_a"].shape) == a_shape
            and tuple(values[f"hada_w{i}_b"].shape) == (rank, width)
            and (not tucker or tuple(values[f"hada_t{i}"].shape) == (rank, rank, *kernel))
            for i in (1, 2)
        )
        require(fits, tensors, target)
        return LohaModule(values, alpha_of(tensors, rank))
