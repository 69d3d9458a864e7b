"""Lines of prompts for previews, with sd-scripts' flags behind the prompt, and its files of prompts.

`a photo --n blurry --w 512 --h 768 --d 7 --s 20 --l 7.5 --ss euler`: negative prompt, width, height, seed, sampling
steps, guidance scale, sampler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_train.config.choices import SAMPLERS
from lora_train.config.table import find
from lora_train.errors import LoraTrainError
from lora_train.jsons import read_json
from lora_train.tomls import toml_reader

SIDES = (64, 4096)
_SPLIT = re.compile(r"\s--(?=[A-Za-z])")
_FLAGS = {"n": "negative", "w": "width", "h": "height", "d": "seed", "s": "steps", "l": "guidance", "ss": "sampler"}
_KEYS = {
    "prompt": "prompt",
    "negative_prompt": "negative",
    "width": "width",
    "height": "height",
    "seed": "seed",
    "sample_steps": "steps",
    "scale": "guidance",
    "sample_sampler": "sampler",
}
"""The names in files of sd-scripts (.toml, .json)."""
_NOT_OF_THE_LINE = ("enum", "subset")


@dataclass(frozen=True)
class Line:
    """One preview. What is None or empty is as the options say."""

    prompt: str
    written: str = ""
    """The line as it was written, for people."""
    negative: str = ""
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str = ""
    notes: tuple[str, ...] = ()
    """What it asks for that is not done."""
    wrong: tuple[str, ...] = ()
    """What cannot be understood in it."""


def read_line(text: str) -> Line:
    """A line with flags; its problems are in it."""
    first, *flags = _SPLIT.split(f" {text}".rstrip())
    line = Line(first.strip(), written=text.strip())
    for flag in flags:
        name, _, value = flag.partition(" ")
        if name in _FLAGS:
            line = _with(line, _FLAGS[name], f"--{name}", value.strip())
        else:
            line = replace(line, notes=(*line.notes, f"--{name} is not available here."))
    return line


def read_prompts(path: Path) -> list[Line]:
    """The lines of a file as sd-scripts reads it: .txt (one a line, # for remarks), .toml or .json.

    Raises LoraTrainError.
    """
    where = "preview.sample_prompts"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".toml":
            prompt = toml_reader(str(path)).loads(text).get("prompt", {})
            general = {name: value for name, value in prompt.items() if name != "subset"}
            items: Any = [{**general, **one} for one in prompt.get("subset", [])]
        elif path.suffix.lower() == ".json":
            items = read_json(text)
        else:
            items = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    except OSError as error:
        raise LoraTrainError(f"{path} cannot be read: {error.strerror}.", where, "Check the name.") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise LoraTrainError(f"{path} cannot be read ({error}).", where, "Correct the file.") from error
    if not isinstance(items, list) or not items or not all(isinstance(one, (str, dict)) for one in items):
        raise LoraTrainError(f"{path} has no prompts.", where, "Write one on each line.")
    return [read_line(one) if isinstance(one, str) else _of_table(one) for one in items]


def _of_table(values: Mapping[str, Any]) -> Line:
    line = Line("", written=str(values.get("prompt", "")))
    for name, value in values.items():
        if name in _KEYS:
            line = _with(line, _KEYS[name], name, str(value).strip())
        elif name not in _NOT_OF_THE_LINE and value not in (None, "", False):
            line = replace(line, notes=(*line.notes, f"{name} is not available here."))
    return line


def _with(line: Line, field: str, shown: str, text: str) -> Line:
    """The line with one more value, or with what is wrong with it."""
    if field == "prompt":
        return replace(line, prompt=text)
    if field == "negative":
        return replace(line, negative=text)
    if field == "sampler":
        name = text.casefold()
        if name in SAMPLERS:
            return replace(line, sampler=name)
        return replace(line, wrong=(*line.wrong, f"{shown} {text} is not known; there are {', '.join(SAMPLERS)}"))
    low, high = SIDES if field in ("width", "height") else find(f"preview.{field}").about.range or SIDES
    try:
        value = float(text) if field == "guidance" else int(text)
    except ValueError:
        return replace(line, wrong=(*line.wrong, f"{shown} {text!r} is not a number"))
    if not low <= value <= high:
        return replace(line, wrong=(*line.wrong, f"{shown} {text} is out of range, {low:g} to {high:.10g}"))
    return replace(line, **{field: value})  # type: ignore[arg-type]
