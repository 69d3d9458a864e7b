"""OFT: W' = R W, with R orthogonal in blocks along the output channels (Qiu et al. 2023, arXiv 2306.07280).

R comes from a free matrix by Cayley's transform: Q = A - A^T, R = (I + Q) (I - Q)^-1. kohya's and LyCORIS' files have
the same keys: `oft_blocks` (blocks, size, size), `alpha` = the constraint (COFT), and LyCORIS' `rescale`. `oft_diag` of
older LyCORIS files holds R itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import MATRICES, Form, NetworkModule, require, shape_of
from lora_train.networks.lokr import factorization

BLOCKS, ROTATION, RESCALE = "oft_blocks", "oft_diag", "rescale"


def rotation(blocks: torch.Tensor, bound: float) -> torch.Tensor:
    """(I + Q) (I - Q)^-1 of each block (..., n, n), Q = A - A^T; `bound` > 0 limits the norm of all Q."""
    skew = blocks - blocks.transpose(-1, -2)
    if bound > 0:
        norm = torch.linalg.vector_norm(skew) + 1e-8
        skew = skew * torch.clamp(bound / norm, max=1.0)
    eye = torch.eye(blocks.shape[-1], device=blocks.device)
    return (eye + skew) @ torch.linalg.inv(eye - skew)


def oft_delta(weight: torch.Tensor, rotated: torch.Tensor, rescale: torch.Tensor | None) -> torch.Tensor:
    """R^T W - W in blocks of output channels, then times `rescale` (out, 1[, 1, 1])."""
    blocks, size = rotated.shape[:2]
    out = torch.einsum("knm,kn...->km...", rotated, weight.reshape(blocks, size, -1)).reshape(weight.shape)
    return (out if rescale is None else rescale * out) - weight


class OftModule(NetworkModule):
    """The blocks of one module; `bound` is alpha * output channels."""

    rescale: torch.Tensor | None

    def __init__(self, blocks: torch.Tensor, alpha: float, rescale: torch.Tensor | None, direct: bool = False) -> None:
        super().__init__()
        self.oft_blocks = nn.Parameter(blocks)
        self.register_parameter(RESCALE, None if rescale is None else nn.Parameter(rescale))
        self.alpha, self.direct = alpha, direct

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        rotated = self.oft_blocks if self.direct else rotation(self.oft_blocks, self.alpha * weight.shape[0])
        return oft_delta(weight.to(rotated.dtype), rotated, self.rescale)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """LyCORIS' keys."""
        tensors = {"alpha": torch.tensor(float(self.alpha))}
        tensors[ROTATION if self.direct else BLOCKS] = self.oft_blocks.detach()
        return tensors if self.rescale is None else tensors | {RESCALE: self.rescale.detach()}


class Oft:
    """The kind "oft". `rank` is the largest block size, as LyCORIS reads its dim."""

    bases = MATRICES

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> OftModule:
        """R starts as the identity."""
        size, count = factorization(shape_of(target)[0], form.rank)
        return OftModule(torch.zeros(count, size, size), form.constraint, new_rescale(target, form))

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> OftModule:
        direct = ROTATION in tensors
        blocks = tensors[ROTATION if direct else BLOCKS].float()
        fits = blocks.ndim == 3 and blocks.shape[1] == blocks.shape[2]
        require(fits and blocks.shape[0] * blocks.shape[1] == shape_of(target)[0], tensors, target)
        return OftModule(blocks, float(tensors.get("alpha", 0.0)), load_rescale(target, tensors), direct)


def new_rescale(target: nn.Module, form: Form) -> torch.Tensor | None:
    """Factors of 1 for each output channel, if `form` asks for them."""
    shape = shape_of(target)
    return torch.ones(shape[0], *[1] * (len(shape) - 1)) if form.rescaled else None


def load_rescale(target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """A file's `rescale` as (out, 1[, 1, 1]). Raises ValueError when it does not fit."""
    if RESCALE not in tensors:
        return None
    shape = shape_of(target)
    require(tensors[RESCALE].numel() == shape[0], tensors, target)
    return tensors[RESCALE].float().reshape(-1, *[1] * (len(shape) - 1))
