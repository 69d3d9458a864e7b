"""The hash that a LoRA file is known by, where its metadata tell it and where they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from lora_train.hashing import file_hash
from lora_train.tensors import holds_safetensors

MODEL_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
OF_NOTHING = hashlib.sha256(b"").hexdigest()
"""What some trainers write into every file: the hash of no bytes at all (e3b0c442...)."""
_DIGITS = frozenset("0123456789abcdef")


def told_hash(metadata: Mapping[str, str]) -> str:
    """`sshs_model_hash` as the metadata tell it; "" when it is absent, no hash, or the hash of nothing."""
    told = metadata.get(MODEL_HASH, "").strip().lower()
    return told if len(told) == len(OF_NOTHING) and told != OF_NOTHING and _DIGITS.issuperset(told) else ""


def model_hash(path: Path, metadata: Mapping[str, str]) -> str:
    """The hash by which the WebUI knows the file: as told, else computed; "" for a folder, or what cannot be read."""
    told = told_hash(metadata)
    try:
        return told or ("" if path.is_dir() else data_hash(path) if holds_safetensors(path) else file_hash(path))
    except OSError:
        return ""


def data_hash(path: Path) -> str:
    """SHA-256 of a safetensors file's bytes behind its header, as the WebUI (`addnet_hash_safetensors`) has it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
