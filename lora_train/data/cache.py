"""The latent cache: what the VAE says of each picture, computed once.

Mean and standard deviation are kept (unscaled), so that sampling the posterior stays possible. An
entry's key covers everything it depends on: the file's content, the cut, the flip, the VAE, the
dtype; change one and just that entry is made anew. Entries live in shards, safetensors files that
are memory-mapped; a shard's own header is the index.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lora_train.atomic import write_bytes
from lora_train.data.buckets import Placement

SHARD_ENTRIES = 256


def entry_key(content: str, placement: Placement, flip: bool, vae: str, dtype: str) -> str:
    """The cache key of one picture's latents; `content` and `vae` are hashes."""
    parts = [content, placement.bucket, placement.scaled, placement.left, placement.top, flip, vae, dtype]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


class LatentCache:
    """Latents by key in a folder of shards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shard_of: dict[str, Path] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(shard, framework="pt") as file:
                    keys = {name.rsplit(".", 1)[0] for name in file.keys()}  # noqa: SIM118 - no dict
            except (SafetensorError, OSError):
                continue  # a damaged shard is as good as none: its entries are made again
            self._shard_of.update(dict.fromkeys(keys, shard))

    def __contains__(self, key: str) -> bool:
        return key in self._shard_of

    def add(self, entries: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Write a new shard with (mean, std) per key, each (C, H/8, W/8)."""
        if not entries:
            return
        tensors = {}
        for key, (mean, std) in entries.items():
            tensors[f"{key}.mean"] = mean.contiguous()
            tensors[f"{key}.std"] = std.contiguous()
        shard = self._folder / f"{uuid4().hex}.safetensors"
        write_bytes(shard, save(tensors))
        self._shard_of.update(dict.fromkeys(entries, shard))

    def get(self, key: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, each (C, H/8, W/8)."""
        with safe_open(self._shard_of[key], framework="pt") as file:
            return file.get_tensor(f"{key}.mean"), file.get_tensor(f"{key}.std")
