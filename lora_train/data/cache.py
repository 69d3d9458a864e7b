"""The latent cache: the VAE's output for each picture, computed once.

Mean and standard deviation are kept (unscaled), so that sampling the posterior stays possible. An
entry's key covers everything it depends on: the file's content, the crop, the flip, the VAE, the
dtype; change one and only that entry is computed again. Entries live in shards, safetensors files that
are memory-mapped; a shard's own header is the index.

A shard is written whole or not at all, under a name of its own, and never changed, so neither a crash nor two
runs at once can lose anything. When the cache grows too large, the least recently used shards are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lora_train.atomic import write_bytes
from lora_train.data.buckets import Placement

SHARD_ENTRIES = 256
LEFTOVER_S = 24 * 3600
"""A temporary file of this age, in seconds, belongs to nobody any more."""

Latents = tuple[torch.Tensor, torch.Tensor]
"""Mean and standard deviation, each (C, H/8, W/8)."""


def entry_key(content: str, placement: Placement, flip: bool, vae: str, dtype: str) -> str:
    """The cache key of one picture's latents; `content` and `vae` are hashes."""
    parts = [content, placement.bucket, placement.scaled, placement.left, placement.top, flip, vae, dtype]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


class LatentCache:
    """Latents by key in a folder of shards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shard_of: dict[str, Path] = {}
        self._opened: dict[Path, Any] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            self._shard_of.update(dict.fromkeys(_keys(shard), shard))

    def __contains__(self, key: str) -> bool:
        """Whether there is such an entry; from then on it stays readable, even if its shard is pruned."""
        shard = self._shard_of.get(key)
        return shard is not None and self._open(shard) is not None

    def add(self, entries: Mapping[str, Latents]) -> None:
        """Write a new shard. Raises LoraTrainError when it cannot be written."""
        if not entries:
            return
        tensors = {}
        for key, (mean, std) in entries.items():
            tensors[f"{key}.mean"] = mean.contiguous()
            tensors[f"{key}.std"] = std.contiguous()
        shard = self._folder / f"{uuid4().hex}.safetensors"
        write_bytes(shard, save(tensors))
        self._shard_of.update(dict.fromkeys(entries, shard))

    def get(self, key: str) -> Latents:
        """An entry, memory-mapped: nothing is read before it is needed. Raises KeyError."""
        file = self._open(self._shard_of[key])
        if file is None:
            raise KeyError(key)
        return file.get_tensor(f"{key}.mean"), file.get_tensor(f"{key}.std")

    def close(self) -> None:
        """Close the files."""
        self._opened.clear()

    def used(self, keys: Collection[str]) -> None:
        """Record that these entries are in use, so that others are pruned first."""
        for shard in {self._shard_of[key] for key in keys if key in self._shard_of}:
            with suppress(OSError):
                os.utime(shard)

    def prune(self, limit: int, keep: Collection[str] = ()) -> int:
        """Remove the least recently used shards until at most `limit` bytes are left. Returns the bytes removed.

        Entries of `keep` in such a shard first move to a new one.
        """
        self._remove_leftovers()
        shards = {shard: stat for shard in self._folder.glob("*.safetensors") if (stat := _stat(shard))}
        total = before = sum(stat.st_size for stat in shards.values())
        for shard in sorted(shards, key=lambda shard: shards[shard].st_mtime_ns):
            if total <= limit:
                break
            carried = {key: self.get(key) for key in _keys(shard) if key in keep and self._shard_of.get(key) == shard}
            if len(carried) == len(_keys(shard)) > 0:
                continue
            self.add(carried)
            try:
                shard.unlink()
            except OSError:  # on Windows, while another run has it open
                continue
            total -= shards[shard].st_size
            if carried:
                total += self._shard_of[next(iter(carried))].stat().st_size
        gone = [key for key, shard in self._shard_of.items() if not shard.exists() and shard not in self._opened]
        for key in gone:
            del self._shard_of[key]
        return before - total

    def _open(self, shard: Path) -> Any:
        """The opened shard; None where it is gone or damaged, and its entries are then forgotten."""
        if shard not in self._opened:
            try:
                self._opened[shard] = safe_open(shard, framework="pt")
            except (SafetensorError, OSError):
                self._shard_of = {key: other for key, other in self._shard_of.items() if other != shard}
                return None
        return self._opened[shard]

    def _remove_leftovers(self) -> None:
        for part in self._folder.glob(".*.part"):
            stat = _stat(part)
            if stat and time.time() - stat.st_mtime > LEFTOVER_S:
                with suppress(OSError):
                    part.unlink()


class CachedLatents(Mapping[str, Latents]):
    """The entries that a dataset needs, read from the cache on access."""

    def __init__(self, cache: LatentCache, keys: Collection[str]) -> None:
        self._cache, self._wanted = cache, dict.fromkeys(keys)

    def __getitem__(self, key: str) -> Latents:
        if key not in self._wanted:
            raise KeyError(key)
        return self._cache.get(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._wanted)

    def __len__(self) -> int:
        return len(self._wanted)


def _keys(shard: Path) -> set[str]:
    """The keys in a shard, from its header; none where it is gone or damaged: its entries are computed again."""
    try:
        with safe_open(shard, framework="pt") as file:
            return {name.rsplit(".", 1)[0] for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError):
        return set()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
