"""Masks for the loss: white where a picture counts, black where it does not.

A mask goes through the same scaling, crop and flip as its picture, and is then averaged over each latent's pixels,
as sd-scripts does (`apply_masked_loss`: interpolation by area).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lora_train.data.buckets import Placement, cut
from lora_train.data.scan import Manifest
from lora_train.errors import LoraTrainError
from lora_train.links import MayRead, anywhere
from lora_train.pictures.kinds import EXTENSIONS
from lora_train.pictures.opening import BrokenPicture, has_alpha, load_alpha, load_picture

BLACK = (0, 0, 0)


def attach_masks(manifest: Manifest, folder: Path | None, may_read: MayRead = anywhere) -> int:
    """Set the mask of every picture of `manifest`. Returns how many have none and count as a whole.

    Masks are in `folder` at the pictures' relative paths, with any picture's extension. Without a folder those beside
    the pictures are used, else the pictures' own alpha. A link that `may_read` refuses is ignored. Raises
    LoraTrainError when no picture has a mask.
    """
    pictures, without = [], 0
    for picture in manifest.pictures:
        if picture.reg:  # counts as a whole
            pictures.append(picture)
            continue
        if folder:
            mask = _mask_in(folder, _relative(picture.path, manifest.folder), may_read)
        else:
            mask = manifest.beside.get(picture.path) or _alpha_of(picture.path)
        without += mask is None and not (picture.again or picture.held_out)
        pictures.append(replace(picture, mask=mask))
    if without == len(manifest.trained):
        raise LoraTrainError(
            "no picture has a mask.",
            str(folder or manifest.folder),
            "Prepare with segment among prepare.operations, give data.mask_folder, put NAME-masklabel.png or "
            "NAME_mask.png beside each picture, or use pictures that are transparent somewhere.",
        )
    manifest.pictures[:] = pictures
    return without


def load_mask(mask: Path, picture: Path, placement: Placement, flip: bool) -> torch.Tensor:
    """A mask as placed in its picture's bucket: (H, W), 0 to 1; the alpha where `mask` is the picture itself.

    Raises BrokenPicture.
    """
    image = load_alpha(mask) if mask == picture else mask_picture(mask)
    image = cut(image, placement, Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)
    return values.flip(-1) if flip else values


def mask_picture(mask: Path) -> Image.Image:
    """A mask's file (mode L); transparent parts do not count. Raises BrokenPicture."""
    return load_picture(mask, background=BLACK).convert("L")


def to_latents(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(H, W) to (1, height, width): the mean over each latent's pixels."""
    return torch.nn.functional.interpolate(mask[None, None], size=(height, width), mode="area")[0]


def in_loss(mask: torch.Tensor, unmasked: float, by_area: bool) -> torch.Tensor:
    """A mask of latents (1, h, w) as a factor on the loss at each place: at least `unmasked` everywhere, and with
    `by_area` divided by its mean, where it is not black all over."""
    factor = mask.clamp(min=unmasked)
    return factor / factor.mean() if by_area and factor.any() else factor


def _relative(picture: Path, folder: Path) -> Path:
    """A dataset config's pictures may be anywhere: then only the name counts."""
    return picture.relative_to(folder) if picture.is_relative_to(folder) else Path(picture.name)


def _mask_in(folder: Path, relative: Path, may_read: MayRead) -> Path | None:
    candidates = (folder / relative.with_suffix(extension) for extension in (".png", *sorted(EXTENSIONS)))
    return next((candidate for candidate in candidates if candidate.is_file() and may_read(candidate.resolve())), None)


def _alpha_of(picture: Path) -> Path | None:
    try:
        return picture if has_alpha(picture) else None
    except BrokenPicture:  # reported when the dataset is built
        return None
