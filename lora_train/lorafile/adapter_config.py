"""peft's `adapter_config.json`, and the same in a diffusers file's metadata: the source of a network's alphas.

Source: peft's `LoraConfig`; diffusers' `lora_adapter_metadata` (0.34 and later).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

METADATA_KEY = "lora_adapter_metadata"


def alpha_of(config: Mapping[str, Any], path: str, rank: int) -> float | None:
    """Alpha of the module at `path` as in kohya's files (the delta is alpha / rank up down); None: not given.

    Raises ValueError when the configuration is invalid.
    """
    value = _by_pattern(config.get("alpha_pattern"), path, config.get("lora_alpha"))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"lora_alpha {value!r} is not a number")
    return float(value) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


def configs_in_metadata(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The configurations by component ("unet", "text_encoder") that diffusers wrote into a file's metadata."""
    try:
        flat = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for key, value in flat.items() if isinstance(flat, dict) else ():
        component, _, field = key.partition(".")
        found.setdefault(component, {})[field] = value
    return found


def make_config(ranks: Mapping[str, int], alphas: Mapping[str, float], dora: bool) -> dict[str, Any]:
    """The configuration of a network on the modules in `ranks`, with the most common rank and alpha as the default."""
    rank, alpha = _commonest(ranks), _commonest(alphas)
    return {
        "alpha_pattern": {path: value for path, value in sorted(alphas.items()) if value != alpha},
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {path: value for path, value in sorted(ranks.items()) if value != rank},
        "target_modules": sorted(ranks),
        "task_type": None,
        "use_dora": dora,
        "use_rslora": False,
    }


def _commonest(values: Mapping[str, Any]) -> Any:
    counted = list(values.values())
    return max(sorted(set(counted)), key=counted.count)


def _by_pattern(patterns: Any, path: str, otherwise: Any) -> Any:
    """peft's lookup: a pattern is the end of a path. Regular expressions, which peft allows, are not run: the
    file may be a stranger's."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if any(sign in plain for sign in "*+?[](){}|\\^$"):
            raise ValueError(f"the pattern {pattern[:80]!r} is a regular expression; only names are read")
        if path == plain or path.endswith("." + plain):
            return value
    return otherwise
