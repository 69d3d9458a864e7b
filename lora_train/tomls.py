"""TOML, where this Python can read it."""

from __future__ import annotations

import importlib
from typing import Any

from lora_train.errors import LoraTrainError


def toml_reader(where: str) -> Any:
    """A module with `loads`: Python's own since 3.11, else tomli. Raises LoraTrainError; `where` is what needs it."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise LoraTrainError("this Python cannot read TOML.", where, "pip install tomli, or write the config as .json.")
