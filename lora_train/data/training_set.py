"""The training set: pictures placed in buckets, their latents, and the order of batches."""

from __future__ import annotations

import hashlib
import json
import random
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from lora_train.config import DataOptions
from lora_train.data.buckets import Placement, Size, cut, make_buckets, place, place_without_upscale
from lora_train.data.cache import SHARD_ENTRIES, CachedLatents, LatentCache, Latents, entry_key
from lora_train.data.items import Encoder, Item
from lora_train.data.latent_files import read_all, write_all
from lora_train.data.masks import load_mask, to_latents
from lora_train.data.scan import Manifest, Picture, Rejected
from lora_train.errors import LoraTrainError
from lora_train.hashing import file_hash
from lora_train.links import MayRead, anywhere
from lora_train.memory import forget, give_back, is_out_of_memory
from lora_train.pictures.opening import LARGE, BrokenPicture, load_picture

ENCODE_BATCH = 8


@dataclass
class Dataset:
    """All items with their latents by key: (mean, std), each (C, H/8, W/8), read on access."""

    items: list[Item]
    """Those that are trained on."""
    latents: Mapping[str, Latents] = field(default_factory=dict)
    from_npz: int = 0
    """How many pictures' latents come from sd-scripts' files."""
    notes: list[str] = field(default_factory=list)
    """What the person should know about those files."""
    held_out: list[Item] = field(default_factory=list)
    """Those that are held out for validation; their latents and masks are there, too."""
    _batches: dict[int, int] = field(default_factory=dict, repr=False)
    _masks: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def mask(self, item: Item, flipped: bool) -> torch.Tensor:
        """The mask of an item's latents: (1, H/8, W/8), 0 to 1; ones where the picture has no mask.

        Raises LoraTrainError when the mask can no longer be read.
        """
        key = item.keys[flipped]
        if key not in self._masks:
            self._masks[key] = self._load_mask(item, flipped)
        return self._masks[key]

    def _load_mask(self, item: Item, flipped: bool) -> torch.Tensor:
        height, width = self.latents[item.keys[flipped]][0].shape[-2:]
        if item.picture.mask is None:
            return torch.ones(1, height, width)
        try:
            mask = load_mask(item.picture.mask, item.picture.path, item.placement, flipped)
        except (BrokenPicture, OSError) as error:
            what, where = f"the mask cannot be read ({error}).", str(item.picture.mask)
            raise LoraTrainError(what, where, "Replace it.") from error
        return to_latents(mask, height, width)

    def bucket_counts(self) -> dict[Size, int]:
        """Pictures per epoch, repeats counted, by bucket size."""
        counts: Counter[Size] = Counter()
        for item in self.items:
            counts[item.placement.bucket] += item.picture.repeats
        return dict(sorted(counts.items()))

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many batches `epoch` returns. Counted once: it is asked at every step."""
        if batch_size not in self._batches:
            self._batches[batch_size] = batches_of(((one.picture, one.placement) for one in self.items), batch_size)
        return self._batches[batch_size]

    def fingerprint(self) -> str:
        """A hash of pictures, crops, captions, repeats and masks: the same for the same training set."""
        parts = [
            (item.keys, item.picture.caption, item.picture.repeats, *filter(None, [item.mask_hash, item.treatment]))
            for item in self.items
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def epoch(self, batch_size: int, seed: str) -> list[list[int]]:
        """Batches of item indices for one epoch; no batch mixes buckets, or pictures with batch sizes of their own.
        `seed` fixes the order."""
        rng = random.Random(seed)
        groups: dict[tuple[Size, int], list[int]] = {}
        for index, item in enumerate(self.items):
            group = _group(item.picture, item.placement, batch_size)
            groups.setdefault(group, []).extend([index] * item.picture.repeats)
        batches = []
        for (_, size), members in sorted(groups.items()):
            rng.shuffle(members)
            batches += [members[i : i + size] for i in range(0, len(members), size)]
        rng.shuffle(batches)
        return batches


def _group(picture: Picture, placement: Placement, batch_size: int) -> tuple[Size, int]:
    """Pictures of one group share batches: the bucket, and the size of the batches."""
    return placement.bucket, dict(picture.own).get("train_batch_size", batch_size)


def batches_of(placed: Iterable[tuple[Picture, Placement]], batch_size: int) -> int:
    """How many batches an epoch has: none mixes buckets, so the last one of each may be smaller."""
    counts: Counter[tuple[Size, int]] = Counter()
    for picture, placement in placed:
        counts[_group(picture, placement, batch_size)] += picture.repeats
    return sum(-(-count // size) for (_, size), count in counts.items())


def count_epoch(pictures: Sequence[Picture], options: DataOptions, step: int) -> tuple[int, int]:
    """How many pictures of the subject (repeats counted) and how many batches an epoch will have."""
    pictures = [picture for picture in pictures if not picture.held_out]
    shown = sum(picture.repeats for picture in pictures if not picture.reg)
    return shown, batches_of(zip(pictures, placements(pictures, options, step)), options.batch_size)


def placements(pictures: Sequence[Picture], options: DataOptions, step: int) -> list[Placement]:
    """Where each picture goes; `step` is the smallest step between sizes that the model allows."""
    return [_placement((one.width, one.height), one.options(options), step) for one in pictures]


def _placement(size: Size, options: DataOptions, step: int) -> Placement:
    assert options.resolution and options.min_bucket_reso and options.max_bucket_reso
    width, height = options.size
    if not options.enable_bucket:
        return place(size, [(max(step, width // step * step), max(step, height // step * step))])
    size_step = max(step, options.bucket_reso_steps)
    if options.bucket_no_upscale:
        return place_without_upscale(size, options.size, size_step)
    return place(size, _buckets(options.size, options.min_bucket_reso, options.max_bucket_reso, size_step))


@lru_cache(maxsize=64)
def _buckets(size: Size, smallest: int, largest: int, step: int) -> list[Size]:
    return make_buckets(size, smallest, largest, step)


def build_dataset(
    manifest: Manifest,
    options: DataOptions,
    encoder: Encoder,
    cache: LatentCache,
    size_step: int,
    progress: Callable[[int, int], None],
    may_encode: bool = True,
    may_read: MayRead = anywhere,
) -> Dataset:
    """Crop and encode every picture that is not in the cache yet.

    Pictures that turn out to be damaged move to `manifest.rejected`. `progress(done, total)` is
    called after each batch and may raise to stop: what has been encoded stays in the cache.
    `.npz` files that are links are read where `may_read` allows it.
    Raises LoraTrainError when none is left, or when `may_encode` is false and latents are missing.
    """
    wanted = _keyed(manifest, options, encoder, size_step)
    given, notes = read_all(wanted, encoder, may_read) if options.read_npz else ({}, [])
    missing = [item for item in wanted if any(key not in given and key not in cache for key in item.keys)]
    if missing and not may_encode:
        raise LoraTrainError(
            f"the latents of {len(missing)} pictures have not been prepared.",
            str(manifest.folder),
            "Run once without --noprocess and --nolatents.",
        )
    broken = _encode(missing, encoder, cache, progress, len(wanted), notes)
    for picture, reason in broken.items():
        manifest.pictures.remove(picture)
        manifest.rejected.append(Rejected(picture.path, reason))
    items = [item for item in wanted if item.picture not in broken]
    if all(item.picture.held_out for item in items):
        raise LoraTrainError("every picture in this folder is damaged.", str(manifest.folder), "Replace them.")
    keys = [key for item in items for key in item.keys if key not in given]
    cache.used(keys)
    latents: MutableMapping[str, Latents] = ChainMap(given, CachedLatents(cache, keys))  # type: ignore[arg-type]
    if options.write_npz:
        notes += write_all([item for item in items if item.keys[0] not in given], latents, encoder)
    from_npz = sum(item.keys[0] in given for item in items)
    trained, held = ([item for item in items if item.picture.held_out is part] for part in (False, True))
    return Dataset(trained, latents, from_npz, notes, held)


def _keyed(manifest: Manifest, options: DataOptions, encoder: Encoder, size_step: int) -> list[Item]:
    items = []
    for picture, placement in zip(manifest.pictures, placements(manifest.pictures, options, size_step)):
        content = file_hash(picture.path)
        flips = (False, True) if picture.options(options).flip_aug else (False,)
        keys = tuple(entry_key(content, placement, flip, encoder.vae_hash, "float32") for flip in flips)
        mask_hash = file_hash(picture.mask) if picture.mask and picture.mask != picture.path else ""
        items.append(Item(picture, placement, keys, mask_hash, content))
    return items


def _encode(
    items: list[Item],
    encoder: Encoder,
    cache: LatentCache,
    progress: Callable[[int, int], None],
    total: int,
    notes: list[str],
) -> dict[Picture, str]:
    """Encode `items` in batches of one size; returns the pictures that could not be decoded. What else there is to
    say goes to `notes`."""
    broken: dict[Picture, str] = {}
    fresh: dict[str, Latents] = {}
    ordered = sorted(items, key=lambda item: item.placement.bucket)
    done = total - len(items)
    try:
        while ordered:
            size = ordered[0].placement.bucket
            batch = [item for item in ordered[:ENCODE_BATCH] if item.placement.bucket == size]
            del ordered[: len(batch)]
            fresh |= _encode_batch(batch, encoder, broken, notes)
            if len(fresh) >= SHARD_ENTRIES:
                cache.add(fresh)
                fresh = {}
            done += len(batch)
            progress(done, total)
    finally:
        cache.add(fresh)
    return broken


def _encode_batch(
    batch: list[Item], encoder: Encoder, broken: dict[Picture, str], notes: list[str]
) -> dict[str, Latents]:
    keys, pixels = [], []
    for item in batch:
        try:
            image = np.asarray(cut(_opened(item), item.placement))
        except BrokenPicture as error:
            broken[item.picture] = str(error)
            continue
        plain = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1.0
        for key, turned in zip(item.keys, (plain, plain.flip(-1))):
            keys.append(key)
            pixels.append(turned)
    if not keys:
        return {}
    for tiled in (False, True):
        try:
            mean, std = encoder.encode_pictures(torch.stack(pixels), tiled)
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            forget(error)
            failure = error
        give_back()
        if len(batch) > 1:  # one at a time may fit
            return {key: one for item in batch for key, one in _encode_batch([item], encoder, broken, notes).items()}
    else:
        width, height = batch[0].placement.bucket
        raise LoraTrainError(
            f"there is not enough memory to encode it at {width} x {height}, even in tiles.",
            str(batch[0].picture.path),
            "Lower the resolution, close other programs, or remove the picture.",
        ) from failure
    if tiled:
        notes.append(f"{batch[0].picture.path.name} was encoded in tiles, because there was not enough memory for it.")
    return {key: (mean[i].float().cpu(), std[i].float().cpu()) for i, key in enumerate(keys)}


def _opened(item: Item) -> Image.Image:
    """The whole picture; one so large that copies would fill memory may be reduced, to at least twice the size
    needed."""
    picture, enough = item.picture, 2 * max(item.placement.scaled)
    return load_picture(picture.path, enough if picture.width * picture.height > LARGE else None)
