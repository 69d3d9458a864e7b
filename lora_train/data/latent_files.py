"""sd-scripts' `.npz` latents for the pictures of a dataset, read and written on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lora_train.data.cache import Latents
from lora_train.data.formats.kohya_npz import KohyaLatents, npz_path, read_npz, write_npz
from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from lora_train.data.dataset import Item


def read_latents(item: Item, family: str) -> dict[str, Latents]:
    """The item's latents by key, from its `.npz` file; nothing where there is none that fits.

    It fits as sd-scripts itself judges: a picture of this size, this bucket, and what flips need; and it must not be
    older than the picture. Which VAE made it the file does not say. It holds one sample: the standard deviation is 0.
    """
    picture, bucket = item.picture, item.placement.bucket
    file = npz_path(picture.path, (picture.width, picture.height), family)
    if not file.is_file() or file.stat().st_mtime_ns < picture.path.stat().st_mtime_ns:
        return {}
    try:
        found = read_npz(file, (bucket[0] // 8, bucket[1] // 8))
    except LoraTrainError:  # of another size, or damaged: made by us instead
        return {}
    if found.original_size != (picture.width, picture.height):
        return {}
    arrays = [found.latents, found.flipped][: len(item.keys)]
    if any(array is None for array in arrays):
        return {}
    means = [torch.from_numpy(array) for array in arrays if array is not None]
    return {key: (mean, torch.zeros_like(mean)) for key, mean in zip(item.keys, means)}


def write_latents(item: Item, latents: list[Latents], family: str) -> None:
    """Write the item's latents (and those of the mirrored picture) beside it: a sample, the same each time.

    Raises LoraTrainError when the file cannot be written, or one that is there is damaged.
    """
    samples = [_sample(key, *one) for key, one in zip(item.keys, latents)]
    picture, placement = item.picture, item.placement
    (width, height), size = placement.bucket, (picture.width, picture.height)
    crop = placement.left, placement.top, placement.left + width, placement.top + height
    flipped = samples[1].numpy() if len(samples) > 1 else None
    write_npz(npz_path(picture.path, size, family), KohyaLatents(samples[0].numpy(), size, crop, flipped))


def _sample(key: str, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(key[:15], 16))
    return mean + std * torch.randn(mean.shape, generator=generator)
