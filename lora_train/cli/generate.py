"""`lora-train generate`: pictures without a page."""

from __future__ import annotations

import argparse
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.cli.from_files import add_config, section_asked
from lora_train.cli.options import add_options
from lora_train.config.sections.generate import GenerateOptions
from lora_train.config.table import find, in_section
from lora_train.config.wording import flag_of
from lora_train.errors import LoraTrainError, Problem
from lora_train.showing import as_shown

if TYPE_CHECKING:
    from lora_train.hosts.base import Host
    from lora_train.models.base import BaseModel

DEFAULT_NAME = "picture.png"
WITHOUT = "generate.allow_missing makes the pictures without it."


def add_generate(commands: Any) -> None:
    """The command "generate"."""
    generate = commands.add_parser("generate", help="make pictures; <lora:name:strength> works in the prompt")
    add_options(generate, in_section("generate"))
    add_config(generate, "generate.seed=7 generate.steps=30", "JSON or TOML, with a section generate")
    generate.set_defaults(run=_generate, precheck=_precheck)


def _generate(given: argparse.Namespace) -> int:
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.lorafile.finding import look_up_anywhere
    from lora_train.prompt.generate import Generator
    from lora_train.runs.bases import remember_base, usual_guidance

    options, found = _checked(given)
    if found:
        raise LoraTrainError.of(found)
    host = StandaloneHost(offline=options.offline)
    folder = _folder(options, host)
    path = _base(options, host, folder)
    guidance = usual_guidance(path) if options.guidance is None else options.guidance
    seeds = range(options.seed, options.seed + options.count)
    base = _opened(path, options, host)
    made = Generator(base, folder, look_up_anywhere).generate(
        options.prompt, seeds, options.negative, options.steps, guidance, allow_missing=options.allow_missing
    )
    remember_base(path, host)
    for note in [*base.notes, *made.notes]:
        _note(note)
    for number, picture in enumerate(made.pictures):
        output = _output(options, host)
        if options.count > 1:
            output = output.with_name(f"{output.stem}-{seeds[number]}{output.suffix}")
        print(_write_picture(picture, output))
    return 0


def _note(text: str) -> None:
    print(f"note: {as_shown(text)}", file=sys.stderr)


def _base(options: GenerateOptions, host: Host, folder: Path) -> Path:
    """The given base model, or the one chosen, which is then reported. Raises LoraTrainError."""
    from lora_train.lorafile.finding import look_up_anywhere
    from lora_train.models.hub import local_model
    from lora_train.prompt.syntax import parse_prompt
    from lora_train.runs.bases import base_for

    if options.model:
        return Path(local_model(options.model)).expanduser()
    loras = []
    for tag in parse_prompt(options.prompt).tags:
        with suppress(LoraTrainError):
            loras.append(look_up_anywhere(folder, tag.written)[0])
    chosen = base_for(loras, host)
    if chosen is None:
        raise LoraTrainError("no base model is given.", "generate.model", "Give a file or folder.")
    _note(f"Base model: {chosen.path} ({chosen.why}). {flag_of(find('generate.model'))} selects another.")
    return chosen.path


def _opened(path: Path, options: GenerateOptions, host: Host) -> BaseModel:
    """The base model, on its device."""
    import torch

    from lora_train.device import inference_dtype, pick_device
    from lora_train.models.opening import open_model
    from lora_train.models.prediction import Assumed
    from lora_train.models.tokenizers import TokenizerSources

    device = pick_device(options.device, "generate.device")
    sources = TokenizerSources(host.tokenizers, host.downloads, _note)
    base = open_model(path, sources, Assumed(options.v_parameterization), keep_dtype=True)
    base.to(torch.device(device), inference_dtype(device))
    return base


def _folder(options: GenerateOptions, host: Host) -> Path:
    return Path(options.lora_dir).expanduser() if options.lora_dir else host.lora_dir()


def _output(options: GenerateOptions, host: Host) -> Path:
    """The output file; by default in the data folder, which is in no repository."""
    output = Path(options.output).expanduser() if options.output else host.data_dir() / "pictures"
    return output / DEFAULT_NAME if not options.output or output.is_dir() else output


def _precheck(given: argparse.Namespace) -> list[Problem]:
    return _checked(given)[1]


def _checked(given: argparse.Namespace) -> tuple[GenerateOptions, list[Problem]]:
    """The options asked for, and everything that can be found wrong before a model is loaded."""
    from PIL import Image

    from lora_train.device import pick_device
    from lora_train.hosts.standalone import StandaloneHost

    options, found = section_asked(GenerateOptions, given)
    host = StandaloneHost(offline=True)
    output = _output(options, host)
    if output.suffix.lower() not in Image.registered_extensions():
        found.append(
            Problem("pictures of this kind cannot be written.", str(output), "Let its name end in .png or .jpg.")
        )
    try:
        pick_device(options.device, "generate.device")
    except LoraTrainError as error:
        found += error.problems
    return options, found + ([] if options.allow_missing else _missing(options, host))


def _missing(options: GenerateOptions, host: Host) -> list[Problem]:
    """What is wrong with the LoRAs in the prompt."""
    from lora_train.lorafile.finding import look_up_anywhere
    from lora_train.prompt.syntax import parse_prompt

    parsed = parse_prompt(options.prompt)
    found = [Problem(text.replace(" is ignored:", " is not understood:", 1), "", WITHOUT) for text in parsed.refused]
    for tag in parsed.tags:
        try:
            look_up_anywhere(_folder(options, host), tag.written)
        except LoraTrainError as error:
            found += [Problem(one.what, one.where, f"{one.fix} {WITHOUT}") for one in error.problems]
    return found


def _write_picture(picture: Any, path: Path) -> Path:
    """Write the picture to the first free name from `path` on. Returns that path. Raises LoraTrainError."""
    from PIL import Image

    from lora_train.atomic import free_path, write_bytes

    buffer = io.BytesIO()
    try:
        picture.save(buffer, Image.registered_extensions()[path.suffix.lower()])
    except (OSError, ValueError, KeyError) as error:
        raise LoraTrainError(
            f"cannot write the picture: {error}.", str(path), "Give another generate.output."
        ) from error
    free = free_path(path)
    try:
        write_bytes(free, buffer.getvalue())
    except BaseException:
        free.unlink(missing_ok=True)
        raise
    return free
