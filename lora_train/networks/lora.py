"""LoRA: W' = W + (alpha / rank) up down (Hu et al. 2021, arXiv 2106.09685), Linear and Conv2d.

For a k x k convolution `down` is k x k into `rank` channels and `up` is 1 x 1 (kohya's form; LoCon), or, with a
`mid` matrix, `down` and `up` are 1 x 1 and `mid` is k x k (LyCORIS' Tucker or "CP" form).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from lora_train.networks.base import (
    MATRICES,
    Drop,
    Form,
    NetworkModule,
    alpha_of,
    as_input,
    require,
    shape_of,
    two_factors,
    uniform,
    weight_of,
)
from lora_train.networks.starts import STARTS, low_rank

DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"


def lora_delta(down: torch.Tensor, up: torch.Tensor, scale: float, mid: torch.Tensor | None = None) -> torch.Tensor:
    """scale * up down, in the base weight's shape: (out, in) or (out, in, k, k).

    `down` is (rank, in) or (rank, in, k, k); `up` is (out, rank) or (out, rank, 1, 1); with `mid`
    (rank, rank, k, k) both are 1 x 1.
    """
    flat = two_factors(up.flatten(1), down.flatten(1), mid)
    return scale * (flat if mid is not None else flat.reshape(up.shape[0], *down.shape[1:]))


class LoraModule(NetworkModule):
    """The two or three matrices beside one module; `scale` is alpha / rank.

    With `start`, a pair (down, up), the delta is counted from that pair on: a network that starts from the base's
    own singular vectors changes nothing at first (see `starts`).
    """

    up_parameters = ("up",)
    start_down: torch.Tensor | None
    start_up: torch.Tensor | None

    def __init__(
        self,
        down: torch.Tensor,
        up: torch.Tensor,
        alpha: float,
        mid: torch.Tensor | None = None,
        start: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.mid = nn.Parameter(mid) if mid is not None else None
        self.alpha = alpha
        self.scale = alpha / down.shape[0]
        self.register_buffer("start_down", start[0] if start else None)
        self.register_buffer("start_up", start[1] if start else None)

    def output_delta(self, base: nn.Module, x: torch.Tensor, drop: Drop | None = None) -> torch.Tensor:
        """Two small products instead of one large weight."""
        delta = self._up(base, self._hidden(base, x, drop), self.up)
        if self.start_down is not None and self.start_up is not None:
            delta = delta - self._up(base, self._through(base, x, self.start_down, None), self.start_up)
        return delta * self.scale

    def add_to(
        self, output: torch.Tensor, base: nn.Module, x: torch.Tensor, strength: float, drop: Drop | None = None
    ) -> torch.Tensor:
        """See NetworkModule; the second product, the scale and the sum are one operation on a Linear."""
        if self.start_up is not None:
            return super().add_to(output, base, x, strength, drop)
        hidden, scale = self._hidden(base, x, drop), strength * self.scale
        if not isinstance(base, nn.Linear):
            return torch.add(output, self._up(base, hidden, self.up), alpha=scale)
        rows = output.reshape(-1, output.shape[-1])
        up = as_input(hidden, self.up).t()
        return torch.addmm(rows, hidden.reshape(-1, hidden.shape[-1]), up, alpha=scale).view_as(output)

    def _hidden(self, base: nn.Module, x: torch.Tensor, drop: Drop | None) -> torch.Tensor:
        """The values between down and up. Dropout is kohya's: on these values, and whole ranks per picture."""
        hidden = self._through(base, x, self.down, self.mid)
        if drop is not None and drop.neuron:
            hidden = hidden * drop.keep_each(tuple(hidden.shape), drop.neuron, hidden)
        if drop is not None and drop.rank:
            hidden = hidden * self._ranks(base, hidden, drop)
        return hidden

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        mid = self.mid.float() if self.mid is not None else None
        delta = lora_delta(self.down.float(), self.up.float(), self.scale, mid)
        if self.start_down is not None and self.start_up is not None:
            delta = delta - lora_delta(self.start_down, self.start_up, self.scale)
        return delta.reshape(weight.shape)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """kohya's keys. The difference from a start has twice the rank, and the same scale."""
        if self.start_down is not None and self.start_up is not None:
            down, up = low_rank((self.down.detach(), self.up.detach()), (self.start_down, self.start_up))
            return {"alpha": torch.tensor(self.scale * down.shape[0]), DOWN: down, UP: up}
        tensors = {"alpha": torch.tensor(float(self.alpha)), DOWN: self.down.detach(), UP: self.up.detach()}
        return tensors if self.mid is None else tensors | {MID: self.mid.detach()}

    @torch.no_grad()
    def shrink(self, ratio: float) -> None:
        """Each matrix is multiplied by the square root, as in sd-scripts."""
        self.down.mul_(ratio**0.5)
        self.up.mul_(ratio**0.5)

    def cut(self, rank: int) -> None:
        """A network with a mid matrix is left whole, as in the WebUI."""
        if self.mid is None and rank < self.down.shape[0]:
            self.down, self.up = nn.Parameter(self.down[:rank]), nn.Parameter(self.up[:, :rank])

    @staticmethod
    def _through(base: nn.Module, x: torch.Tensor, down: torch.Tensor, mid: torch.Tensor | None) -> torch.Tensor:
        """The values between down and up."""
        if not isinstance(base, nn.Conv2d):
            return F.linear(x, as_input(x, down))
        geometry = (base.stride, base.padding, base.dilation)
        if mid is None:
            return F.conv2d(x, as_input(x, down), None, *geometry)
        return F.conv2d(F.conv2d(x, as_input(x, down)), as_input(x, mid), None, *geometry)

    @staticmethod
    def _up(base: nn.Module, hidden: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return (F.conv2d if isinstance(base, nn.Conv2d) else F.linear)(hidden, as_input(hidden, up))

    @staticmethod
    def _ranks(base: nn.Module, hidden: torch.Tensor, drop: Drop) -> torch.Tensor:
        """A mask over the ranks of each picture (B, rank), in the shape of `hidden`."""
        channel = 1 if isinstance(base, nn.Conv2d) else hidden.ndim - 1
        shape = [hidden.shape[d] if d in (0, channel) else 1 for d in range(hidden.ndim)]
        return drop.keep_each(tuple(shape), drop.rank, hidden)


class Lora:
    """The kind "lora"."""

    bases = MATRICES

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> LoraModule:
        """`down` (and `mid`) are drawn by `uniform` and `up` is 0, or both start from the base's weight."""
        out, into, *kernel = shape_of(target)
        rank, ones = form.rank, [1] * len(kernel)
        if form.init_lora_weights in STARTS:
            pair = STARTS[form.init_lora_weights](weight_of(target), rank, form.file_alpha / rank)
            return LoraModule(pair[0].clone(), pair[1].clone(), form.file_alpha, start=pair)
        tucker = form.use_tucker and kernel not in ([], [1, 1])
        down = uniform((rank, into, *(ones if tucker else kernel)), generator)
        mid = uniform((rank, rank, *kernel), generator) if tucker else None
        return LoraModule(down, torch.zeros(out, rank, *ones), form.file_alpha, mid)

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> LoraModule:
        shape = shape_of(target)
        down, up = tensors[DOWN].float(), tensors[UP].float()
        mid = tensors[MID].float() if MID in tensors else None
        if len(shape) == 4 and down.ndim == 2:  # other tools write 1x1 convolutions as matrices
            down, up = down[:, :, None, None], up[:, :, None, None]
        if len(shape) == 2 and down.ndim == up.ndim == 4 and down[0, 0].numel() == up[0, 0].numel() == 1:
            down, up = down.flatten(1), up.flatten(1)  # and matrices as 1x1 convolutions
        rank, kernel = down.shape[0], shape[2:]
        inner = kernel if mid is None else (1,) * len(kernel)
        fits = (
            tuple(down.shape) == (rank, shape[1], *inner)
            and tuple(up.shape) == (shape[0], rank, *[1] * len(kernel))
            and (mid is None or tuple(mid.shape) == (rank, rank, *kernel))
        )
        require(fits, tensors, target)
        return LoraModule(down, up, alpha_of(tensors, rank), mid)
