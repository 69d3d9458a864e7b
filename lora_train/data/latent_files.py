"""sd-scripts' `.npz` latents for the pictures of a dataset, read and written on request."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lora_train.data.cache import Latents
from lora_train.data.formats.kohya_npz import KohyaLatents, npz_path, read_npz, write_npz
from lora_train.errors import LoraTrainError
from lora_train.links import OUT, MayRead, anywhere, leads_out
from lora_train.pictures.left_out import SHOWN, shown

if TYPE_CHECKING:
    from lora_train.data.items import Encoder, Item


class _Unfit(Exception):
    """Why a picture's latents are computed again."""


def read_all(
    items: Sequence[Item], encoder: Encoder, may_read: MayRead = anywhere
) -> tuple[dict[str, Latents], list[str]]:
    """The latents of all items that have a fitting file, by key, and a note on those whose file does not fit."""
    found: dict[str, Latents] = {}
    unfit: dict[str, list[str]] = defaultdict(list)
    doubtful: list[str] = []
    shared = _shared(items, encoder.family)
    for item in items:
        file = _file(item, encoder.family)
        if not file.is_file():
            continue
        try:
            if leads_out(file, may_read):
                raise _Unfit(OUT)
            if file in shared:
                raise _Unfit("shared by several pictures of the same name")
            latents, named = _read(item, file, encoder)
            found |= latents
            doubtful += [] if named or file.stem != item.picture.path.stem else [shown(file.name)]
        except _Unfit as reason:
            unfit[str(reason)].append(shown(file.name))
    if not found and not unfit:
        return found, ["No .npz files of latents for this base model are beside the pictures: all are computed here."]
    return found, [*_unfit_notes(unfit), *_doubtful_notes(doubtful)]


def _unfit_notes(unfit: Mapping[str, Sequence[str]]) -> list[str]:
    if not unfit:
        return []
    count = sum(map(len, unfit.values()))
    reasons = ", ".join(f"{len(files)} {reason} ({_named(files)})" for reason, files in unfit.items())
    return [f"The latents of {count} pictures are not taken from .npz files: {reasons}."]


def _doubtful_notes(files: Sequence[str]) -> list[str]:
    """Files whose name has no ending of a family (`_sd.npz`): those of Stable Diffusion and of SDXL look the same."""
    if not files:
        return []
    which = "1 of the .npz files does" if len(files) == 1 else f"{len(files)} of the .npz files do"
    return [
        f"{which} not say which VAE made {'it' if len(files) == 1 else 'them'} ({_named(files)}): if another "
        "base model's VAE did, the training learns nothing useful. If in doubt, train without data.read_npz."
    ]


def _named(files: Sequence[str]) -> str:
    return ", ".join(files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")


def write_all(items: Sequence[Item], latents: Mapping[str, Latents], encoder: Encoder) -> list[str]:
    """Write the items' latents (and those of the mirrored pictures) beside them: a sample, the same every time.

    Pictures that would share a file get none, which the notes say. Raises LoraTrainError when a file cannot be written,
    or an existing one is damaged.
    """
    shared = _shared(items, encoder.family)
    for item in items:
        if _file(item, encoder.family) not in shared:
            _write(item, [latents[key] for key in item.keys], encoder)
    count = sum(_file(item, encoder.family) in shared for item in items)
    what = (
        f"No .npz files are written for {count} pictures: pictures of the same name would share a file in sd-scripts."
    )
    return [what] if count else []


def _file(item: Item, family: str) -> Path:
    return npz_path(item.picture.path, (item.picture.width, item.picture.height), family)


def _shared(items: Sequence[Item], family: str) -> set[Path]:
    """The files that several pictures would share: `a.jpg` and `a.png` of one size."""
    pictures = {item.picture.path: _file(item, family) for item in items}
    return {file for file, count in Counter(pictures.values()).items() if count > 1}


def _read(item: Item, file: Path, encoder: Encoder) -> tuple[dict[str, Latents], bool]:
    """The item's latents by key, and whether the file says which VAE made them.

    Whether they fit is judged as in sd-scripts: this picture size, this bucket, and what flips need. Our files name the
    picture's content and the VAE; those of other programs must not be older than the picture, and do not say which VAE
    made them. A file holds one sample: the standard deviation is 0.
    """
    picture, bucket = item.picture, item.placement.bucket
    try:
        found = read_npz(file, encoder.latent_shape(*bucket)[:0:-1])
    except LoraTrainError as error:
        raise _Unfit("of another size, or damaged") from error
    if found.content:
        if found.content != item.content:
            raise _Unfit("of another picture")
        if found.vae != encoder.vae_hash:
            raise _Unfit("of another VAE")
    elif file.stat().st_mtime_ns < picture.path.stat().st_mtime_ns:
        raise _Unfit("older than the picture")
    if found.original_size != (picture.width, picture.height):
        raise _Unfit("of another picture")
    channels, wanted = found.latents.shape[0], encoder.latent_shape(*bucket)[0]
    if channels != wanted:
        raise _Unfit(f"of another family of models, with {channels} channels instead of {wanted}")
    arrays = [found.latents, found.flipped][: len(item.keys)]
    if any(array is None for array in arrays):
        raise _Unfit("without the mirrored picture")
    means = [torch.from_numpy(array) for array in arrays if array is not None]
    return {key: (mean, torch.zeros_like(mean)) for key, mean in zip(item.keys, means)}, bool(found.content)


def _write(item: Item, latents: list[Latents], encoder: Encoder) -> None:
    samples = [_sample(key, *one) for key, one in zip(item.keys, latents)]
    picture, placement = item.picture, item.placement
    (width, height), size = placement.bucket, (picture.width, picture.height)
    crop = placement.left, placement.top, placement.left + width, placement.top + height
    flipped = samples[1].numpy() if len(samples) > 1 else None
    entry = KohyaLatents(samples[0].numpy(), size, crop, flipped, content=item.content, vae=encoder.vae_hash)
    write_npz(_file(item, encoder.family), entry)


def _sample(key: str, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(key[:15], 16))
    return mean + std * torch.randn(mean.shape, generator=generator)
