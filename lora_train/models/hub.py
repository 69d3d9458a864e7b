"""Models of the Hugging Face hub that are already on this machine."""

from __future__ import annotations

import re
from pathlib import Path


def is_hub_id(name: str) -> bool:
    """Whether `name` could be a model's id, as "stabilityai/sdxl-turbo" is."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None and not name.endswith((".safetensors", ".ckpt"))


def local_model(name: str) -> str:
    """`name`, or the folder of the model of that id in the hub's cache; a file or folder of that name comes first."""
    if not is_hub_id(name) or Path(name).expanduser().exists():
        return name
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "model_index.json")
    return str(Path(found).parent) if isinstance(found, str) else name
