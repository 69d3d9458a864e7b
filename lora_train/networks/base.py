"""The interface of every kind of network: a change of a base module's weight, and optionally of its bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_train.device import sent

MATRICES: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)
NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Form:
    """The options of a new network; each kind reads the fields that apply to it (names are LyCORIS')."""

    rank: int
    alpha: float
    use_tucker: bool = False
    """lora, loha, lokr on k x k convolutions: a core of the kernel's size between 1 x 1 factors."""
    factor: int = -1
    """lokr: size of the left factor; -1: as square as possible."""
    decompose_both: bool = False
    full_matrix: bool = False
    unbalanced_factorization: bool = False
    constraint: float = 0.0
    """oft, boft: bound on the rotation, per output channel; 0: unbounded."""
    rescaled: bool = False
    """oft, boft: one learned factor per output channel."""
    train_on_input: bool = False
    """ia3: factors on the input channels instead of the output's."""
    rs_lora: bool = False
    init_lora_weights: str = "default"
    dora_wd: bool = False
    wd_on_output: bool = False

    @property
    def file_alpha(self) -> float:
        """Alpha in files: readers scale by alpha / rank, so rsLoRA's alpha / sqrt(rank) is written multiplied by
        sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732; LyCORIS writes the same)."""
        return self.alpha * math.sqrt(self.rank) if self.rs_lora else self.alpha


Pictures = tuple[int, int, int]
"""Some pictures of a batch: the first, the one after the last, and how many the batch has."""


@dataclass(frozen=True)
class Drop:
    """What one network drops in one micro-batch: probabilities, and the generator that draws."""

    generator: torch.Generator
    neuron: float = 0.0
    rank: float = 0.0
    pictures: Pictures | None = None
    """Which pictures of the batch pass through the network now; None: all of them."""

    def keep(self, shape: tuple[int, ...], chance: float, like: torch.Tensor) -> torch.Tensor:
        """A mask of 0 and 1 / (1 - chance), drawn on the CPU so that every device draws the same."""
        kept = torch.rand(shape, generator=self.generator) >= chance
        return sent(kept, like.device).to(like.dtype) / (1 - chance)

    def keep_each(self, shape: tuple[int, ...], chance: float, like: torch.Tensor) -> torch.Tensor:
        """`keep` for a shape that begins with the pictures: drawn for the whole batch, so that a batch that passes in
        parts drops what it would drop as a whole. A picture may have several rows, one after the other."""
        if self.pictures is None:
            return self.keep(shape, chance, like)
        first, end, of = self.pictures
        rows = shape[0] // (end - first)
        return self.keep((of * rows, *shape[1:]), chance, like)[first * rows : end * rows]


CAST = "cast_once"
"""The name under which a parameter carries itself in the base's precision (see `train.flat`)."""


def as_input(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`weight` in the precision of `x`, cast before where it was; autocast does this itself."""
    if torch.is_autocast_enabled() or x.dtype == weight.dtype:
        return weight
    found = getattr(weight, CAST, None)
    return found if found is not None and found.dtype == x.dtype else weight.to(x.dtype)


class NetworkModule(nn.Module):
    """The trainable part beside one module of the base."""

    up_parameters: tuple[str, ...] = ()
    """The parameters with LoRA+'s higher rate: those that start at 0."""

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        """What is added to the base module's `weight` at strength 1, in its shape, fp32; differentiable."""
        raise NotImplementedError

    def bias_delta(self) -> torch.Tensor | None:
        """What is added to the base module's bias at strength 1; None: nothing."""
        return None

    def output_delta(self, base: nn.Module, x: torch.Tensor, drop: Drop | None = None) -> torch.Tensor:
        """What is added to the output of `base` for its input `x`, at strength 1.

        The delta is computed in fp32 even under autocast; rank dropout drops whole output channels of it. The backward
        pass keeps the factors and `x`, and builds the delta again: kept, it and its intermediate values would need
        up to 35 bytes for each weight of the base.
        """
        keep = None
        if drop is not None and drop.rank:  # drawn once: building the delta again would draw another
            keep = drop.keep((shape_of(base)[0],), drop.rank, next(self.parameters()))
        if not torch.is_grad_enabled():
            return self._delta_of(base, x, keep)
        return checkpoint(self._delta_of, base, x, keep, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]

    def _delta_of(self, base: nn.Module, x: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        """See output_delta; `keep` is a mask over the output channels."""
        original = base.weight
        assert isinstance(original, torch.Tensor)
        with torch.autocast(_autocast_device(x), enabled=False):
            weight, bias = self.weight_delta(original), self.bias_delta()
            if keep is not None:
                weight = weight * keep.view(-1, *[1] * (weight.ndim - 1))
                bias = bias * keep if bias is not None else None
        return apply_as(base, x, weight, bias)

    def add_to(
        self, output: torch.Tensor, base: nn.Module, x: torch.Tensor, strength: float, drop: Drop | None = None
    ) -> torch.Tensor:
        """`output`, that of `base` for `x`, with this network's at `strength` on top."""
        return torch.add(output, self.output_delta(base, x, drop).to(output.dtype), alpha=strength)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of the file, by the key's last part ("lora_up.weight", "alpha")."""
        raise NotImplementedError

    def shrink(self, ratio: float) -> None:
        """Multiply the delta by `ratio`, in place (max-norm scaling)."""
        raise NotImplementedError

    def cut(self, rank: int) -> None:
        """Keep only the first `rank` ranks at the same scale, for the kinds where the WebUI does so (`dyn=`)."""


class NetworkKind(Protocol):
    """How networks of a kind are created and loaded; everything else is in its record (`records.kind.Kind`)."""

    bases: tuple[type[nn.Module], ...]
    """The modules that it can change."""

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> NetworkModule:
        """A new network for `target`, whose delta is zero. Raises ValueError when `form` does not fit it."""
        ...

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> NetworkModule:
        """A network for `target` from a file's tensors. Raises ValueError when shapes do not fit."""
        ...


def apply_as(base: nn.Module, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The output of `base` for `x`, with another weight and bias."""
    if not torch.is_autocast_enabled() and weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
        bias = bias.to(x.dtype) if bias is not None else None
    compute = next(compute for kind, compute in _COMPUTE.items() if isinstance(base, kind))
    return compute(base, x, weight, bias)


_Compute = Callable[[Any, torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]
_COMPUTE: dict[type[nn.Module], _Compute] = {
    nn.Linear: lambda base, x, weight, bias: F.linear(x, weight, bias),
    nn.Conv2d: lambda base, x, weight, bias: F.conv2d(
        x, weight, bias, base.stride, base.padding, base.dilation, base.groups
    ),
    nn.LayerNorm: lambda base, x, weight, bias: F.layer_norm(x, base.normalized_shape, weight, bias, base.eps),
    nn.GroupNorm: lambda base, x, weight, bias: F.group_norm(x, base.num_groups, weight, bias, base.eps),
}


def _autocast_device(x: torch.Tensor) -> str:
    """The kind of device whose autocast concerns `x`; shapes alone (the meta device) are counted under the CPU's."""
    return "cpu" if x.is_meta else x.device.type


def weight_of(target: nn.Module) -> torch.Tensor:
    """The target's weight, detached, fp32 on the CPU: what new networks are measured on."""
    assert isinstance(target.weight, torch.Tensor)
    return target.weight.detach().float().cpu()


def shape_of(target: nn.Module) -> tuple[int, ...]:
    """The shape of the target's weight."""
    assert isinstance(target.weight, torch.Tensor)
    return tuple(target.weight.shape)


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Kaiming-uniform with a = sqrt(5), as in sd-scripts, LyCORIS and peft: within 1 / sqrt(inputs)."""
    values = torch.empty(shape)
    bound = 1 / math.sqrt(values[0].numel())
    return values.uniform_(-bound, bound, generator=generator)


def alpha_of(tensors: Mapping[str, torch.Tensor], rank: int) -> float:
    """Alpha of a file's module; missing or 0 means the rank, as sd-scripts and LyCORIS read it."""
    return float(tensors.get("alpha", 0.0)) or float(rank)


def require(fits: bool, tensors: Mapping[str, torch.Tensor], target: nn.Module) -> None:
    """Raise ValueError that names the shapes, unless they fit."""
    if not fits:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items() if value.ndim)
        raise ValueError(f"{shapes} does not fit {shape_of(target)}")


def two_factors(left: torch.Tensor, right: torch.Tensor, core: torch.Tensor | None = None) -> torch.Tensor:
    """left right, or with a Tucker core: sum_mn core[m, n] left[:, m] right[n, :].

    `left` is (out, r), `right` (r, in or in * k * k), `core` (r, r, k, k); the result (out, in * k * k), or
    (out, in, k, k).
    """
    if core is None:
        return left @ right
    return torch.einsum("mn...,im,nj->ij...", core, left, right)
