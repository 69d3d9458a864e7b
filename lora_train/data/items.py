"""One picture of a training set at its place in a bucket, and what caching needs from a base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lora_train.data.buckets import Placement
from lora_train.data.scan import Picture
from lora_train.models.base import Frame


class Encoder(Protocol):
    """What caching needs from a base model."""

    family: str

    @property
    def vae_hash(self) -> str:
        """Identifies the VAE and its weights."""
        ...

    def encode_pictures(self, pixels: torch.Tensor, tiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels (B, 3, H, W) in [-1, 1] to mean and standard deviation (B, C, H/8, W/8), unscaled; `tiled` with less
        memory."""
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, H/8, W/8) of the latents of a picture of that size."""
        ...


@dataclass(frozen=True)
class Item:
    """A picture, its place in a bucket, and the keys of its latents (two when it is also flipped)."""

    picture: Picture
    placement: Placement
    keys: tuple[str, ...]
    mask_hash: str = ""
    content: str = ""
    """The hash of the picture's file."""

    @property
    def treatment(self) -> list[Any]:
        """What else distinguishes its training from that of other pictures; empty for most."""
        picture = self.picture
        own = [picture.reg, picture.weight, picture.own, picture.others]
        return own if own != [False, 1.0, (), ()] else []

    def frame(self, flipped: bool) -> Frame:
        """How the picture was cropped; `left` counts from the other side when it is flipped."""
        place = self.placement
        left = place.scaled[0] - place.bucket[0] - place.left if flipped else place.left
        return Frame((self.picture.width, self.picture.height), (left, place.top), place.bucket)
