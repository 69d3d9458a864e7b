"""The hash by which a LoRA file is known, from its metadata or computed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from lora_train.hashing import file_hash
from lora_train.tensors import holds_safetensors

MODEL_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
OF_NOTHING = hashlib.sha256(b"").hexdigest()
"""The hash of no bytes at all (e3b0c442...), which some trainers write into every file."""
_DIGITS = frozenset("0123456789abcdef")


def told_hash(metadata: Mapping[str, str]) -> str:
    """`sshs_model_hash` in the metadata; "" if it is absent, not a hash, or the hash of nothing."""
    value = metadata.get(MODEL_HASH, "").strip().lower()
    return value if len(value) == len(OF_NOTHING) and value != OF_NOTHING and _DIGITS.issuperset(value) else ""


def model_hash(path: Path, metadata: Mapping[str, str]) -> str:
    """The hash by which the WebUI knows the file, from its metadata or computed.

    "" for a folder or an unreadable file.
    """
    known = told_hash(metadata)
    try:
        return known or ("" if path.is_dir() else data_hash(path) if holds_safetensors(path) else file_hash(path))
    except OSError:
        return ""


def data_hash(path: Path) -> str:
    """SHA-256 of a safetensors file's bytes after its header, as in the WebUI (`addnet_hash_safetensors`)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
