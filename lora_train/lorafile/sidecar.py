"""What lies beside a LoRA for the WebUI's Lora page: a `.json` with tag and weight, and a preview picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_train.atomic import write_bytes, write_json

SD_VERSIONS = {"sd_v1": "SD1", "sd_v2": "SD2", "sdxl": "SDXL"}
"""kohya's `ss_base_model_version` (its beginning) to what the WebUI's card calls it."""


def write_sidecar(lora: Path, tag: str, base_version: str, notes: str) -> Path:
    """Write or complete `NAME.json` beside the LoRA. What a person put there stays; only what is missing is added."""
    path = lora.with_suffix(".json")
    version = next((name for start, name in SD_VERSIONS.items() if base_version.startswith(start)), "Unknown")
    ours = {"activation text": tag, "preferred weight": 1.0, "sd version": version, "notes": notes}
    present = _read(path)
    write_json(path, ours | {key: value for key, value in present.items() if value not in ("", 0, None)})
    return path


def write_preview(lora: Path, picture: bytes) -> Path:
    """Write the PNG `picture` as `NAME.preview.png`; a preview that a person chose (`NAME.png`) goes before it."""
    path = lora.with_name(f"{lora.stem}.preview.png")
    write_bytes(path, picture)
    return path


def activation_text(lora: Path) -> str:
    """What the LoRA's card says to write into prompts; empty where there is no such card."""
    text = _read(lora.with_suffix(".json")).get("activation text")
    return text if isinstance(text, str) else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
