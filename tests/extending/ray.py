"""A kind of network from outside: W' = W + g u v, one ray of rank 1 with a trained length g.

The last line adds it; `ADDED` is there for the tests, which take it away again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.config.extending import register
from lora_train.networks.base import Form, NetworkModule, require, shape_of, uniform
from lora_train.records.kind import Kind
from lora_train.records.kinds import KINDS

OUT, INTO, LENGTH = PARTS = ("ray_out.weight", "ray_into.weight", "ray_length")


class RayModule(NetworkModule):
    """The ray beside one Linear."""

    def __init__(self, out: torch.Tensor, into: torch.Tensor, length: float) -> None:
        super().__init__()
        self.out, self.into, self.length = nn.Parameter(out), nn.Parameter(into), nn.Parameter(torch.tensor(length))

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        """See NetworkModule."""
        return self.length * torch.outer(self.out, self.into)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """See NetworkModule."""
        return {OUT: self.out.detach(), INTO: self.into.detach(), LENGTH: self.length.detach()}

    @torch.no_grad()
    def shrink(self, ratio: float) -> None:
        """See NetworkModule."""
        self.length.mul_(ratio)


class Ray:
    """The kind "ray"."""

    bases = (nn.Linear,)

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> RayModule:
        """See NetworkKind."""
        out, into = shape_of(target)
        return RayModule(uniform((out, into), generator)[:, 0].clone(), uniform((1, into), generator)[0].clone(), 0.0)

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> RayModule:
        """See NetworkKind."""
        out, into = tensors[OUT].float(), tensors[INTO].float()
        require((len(out), len(into)) == shape_of(target), tensors, target)
        return RayModule(out, into, float(tensors[LENGTH]))


RAY = Kind(
    name="ray",
    help="one ray of rank 1, with a trained length",
    implementation=f"{__name__}:Ray",
    needs=(PARTS,),
    partners=(PARTS,),
    numbers=(LENGTH,),
    inputs=lambda side: side(INTO, 0),
    ranked=False,
    scalable=True,
    spellings={"beam": {"train_norm": True}},
)


ADDED = ((KINDS, RAY),)


def add() -> None:
    """The one line."""
    register(*ADDED)
