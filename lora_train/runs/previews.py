"""The previews of a run: its lines of prompts, checked before the start."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import RunConfig
from lora_train.config.choices import SAMPLERS
from lora_train.errors import LoraTrainError, Problem
from lora_train.hosts.allowing import allowed
from lora_train.lorafile.finding import look_up
from lora_train.prompt.lines import Line, read_line, read_prompts
from lora_train.prompt.syntax import LoraTag, parse_prompt
from lora_train.records.families import least_factor

if TYPE_CHECKING:
    from lora_train.hosts.base import Host


def preview_lines(config: RunConfig) -> list[Line]:
    """The lines of the options, then those of the file. Raises LoraTrainError where it cannot be read."""
    lines = [read_line(one) for one in config.preview.prompts]
    if config.preview.sample_prompts:
        lines += read_prompts(Path(config.preview.sample_prompts).expanduser())
    return lines


def check_previews(config: RunConfig, host: Host) -> tuple[list[Problem], list[str]]:
    """What is wrong with the lines, and notes on what they ask for and do not get."""
    found: list[Problem] = []
    notes: list[str] = []
    try:
        if config.preview.sample_prompts:
            allowed(config.preview.sample_prompts, host, "preview.sample_prompts")
        lines = preview_lines(config)
    except LoraTrainError as error:
        return error.problems, []
    for line in lines:
        shown = line.written[:200]
        where = (
            "preview.prompts" if line.written in map(str.strip, config.preview.prompts) else "preview.sample_prompts"
        )
        found += [Problem(f"{shown!r}: {one}.", where, "Correct it.") for one in line.wrong]
        notes += [f"The preview {shown!r}: {one}" for one in (*line.notes, *_sizes(line), *_sampler(line, config))]
        parsed = parse_prompt(line.prompt)
        fix = "Correct it, or leave it out."
        found += [Problem(f"{shown!r}: {one.replace(' is ignored:', ':', 1)}", where, fix) for one in parsed.refused]
        for tag in others(parsed.tags, config):
            try:
                find_lora(tag, config, host.lora_dir())
            except LoraTrainError as error:
                found += [Problem(f"{shown!r}: {one.what}", where, one.fix) for one in error.problems]
    return found, list(dict.fromkeys(notes))


def others(tags: tuple[LoraTag, ...], config: RunConfig) -> list[LoraTag]:
    """The LoRAs of a line besides the one being trained, which is there anyway."""
    return [tag for tag in tags if tag.name != config.save.output_name]


def find_lora(tag: LoraTag, config: RunConfig, lora_dir: Path) -> Path:
    """The file of a LoRA in a line: in the host's folder, else where this run's goes. Raises LoraTrainError."""
    try:
        return look_up(lora_dir, tag.written)[0]
    except LoraTrainError:
        own = Path(config.save.output_dir).expanduser()
        if not config.save.output_dir or own == lora_dir or not own.is_dir():
            raise
        return look_up(own, tag.written)[0]


def _sizes(line: Line) -> list[str]:
    step = least_factor()
    odd = [side for side in (line.width, line.height) if side and side % step]
    return [f"{side} becomes {side // step * step}, a multiple of {step}." for side in odd]


def _sampler(line: Line, config: RunConfig) -> list[str]:
    name = line.sampler or config.preview.sampler
    if not SAMPLERS[name][1] or importlib.util.find_spec(SAMPLERS[name][1]) is not None:
        return []
    return [f"{name} needs the package {SAMPLERS[name][1]}, which is not installed; the usual sampler is used."]
