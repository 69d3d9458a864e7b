"""`lora-train generate`: pictures without a page."""

from __future__ import annotations

import argparse
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.cli.parser import Switch
from lora_train.errors import LoraTrainError, Problem
from lora_train.showing import as_shown

if TYPE_CHECKING:
    from lora_train.hosts.base import Host
    from lora_train.models.base import BaseModel

MAX_SEED = 2**63 - 1
DEFAULT_NAME = "picture.png"
WITHOUT = "--allow-missing makes the pictures without it."


def add_generate(commands: Any) -> None:
    """The command "generate"."""
    generate = commands.add_parser("generate", help="make pictures; <lora:name:strength> works in the prompt")
    generate.add_argument("prompt", help="what to draw")
    generate.add_argument(
        "--model",
        default=None,
        metavar="PATH",
        help="base model (default: the one that the LoRA was trained on, else the last used, else the demo's)",
    )
    generate.add_argument("--dir", default=None, metavar="FOLDER", help="folder of LoRAs")
    generate.add_argument(
        "--allow-missing", action="store_true", help="make the pictures without a LoRA that is missing or does not fit"
    )
    generate.add_argument("--negative", default="", help="negative prompt")
    generate.add_argument("--seed", type=int, default=1, help="first seed (default %(default)s)")
    generate.add_argument("--count", type=int, default=1, help="number of pictures (default %(default)s)")
    generate.add_argument("--steps", type=int, default=20, help="default %(default)s")
    generate.add_argument("--guidance", type=float, help="default: the usual one of the base model's family")
    generate.add_argument(
        "--v-parameterization",
        action=Switch,
        help="whether the base predicts v (default: taken from its files)",
    )
    generate.add_argument(
        "--output",
        type=Path,
        default=None,
        metavar="FILE_OR_FOLDER",
        help="file to write, or an existing folder (default: picture.png in lora-train-data/pictures); "
        "a number is added where such a file exists",
    )
    generate.add_argument("--device", default="auto", help="auto, cuda, cuda:1 ..., mps or cpu (default %(default)s)")
    generate.add_argument(
        "--offline", action="store_true", help="download nothing (CLIP's tokenizer, where it is missing)"
    )
    generate.set_defaults(run=_generate, precheck=_precheck)


def _generate(options: argparse.Namespace) -> int:
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.lorafile.finding import look_up_anywhere
    from lora_train.prompt.generate import Generator
    from lora_train.runs.bases import remember_base, usual_guidance

    _check(options)
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


def _base(options: argparse.Namespace, host: Host, folder: Path) -> Path:
    """The given base model, or the one chosen, which is then reported. Raises LoraTrainError."""
    from lora_train.lorafile.finding import look_up_anywhere
    from lora_train.models.hub import local_model
    from lora_train.prompt.syntax import parse_prompt
    from lora_train.runs.bases import base_for

    if options.model is not None:
        return Path(local_model(options.model)).expanduser()
    loras = []
    for tag in parse_prompt(options.prompt).tags:
        with suppress(LoraTrainError):
            loras.append(look_up_anywhere(folder, tag.written)[0])
    chosen = base_for(loras, host)
    if chosen is None:
        raise LoraTrainError("no base model is given.", "--model", "Give --model FILE_OR_FOLDER.")
    _note(f"Base model: {chosen.path} ({chosen.why}). --model selects another.")
    return chosen.path


def _opened(path: Path, options: argparse.Namespace, host: Host) -> BaseModel:
    """The base model, on its device."""
    import torch

    from lora_train.device import inference_dtype, pick_device
    from lora_train.models.opening import open_model
    from lora_train.models.prediction import Assumed
    from lora_train.models.tokenizers import TokenizerSources

    device = pick_device(options.device, "--device")
    sources = TokenizerSources(host.tokenizers, host.downloads, _note)
    base = open_model(path, sources, Assumed(options.v_parameterization), keep_dtype=True)
    base.to(torch.device(device), inference_dtype(device))
    return base


def _folder(options: argparse.Namespace, host: Host) -> Path:
    return Path(options.dir).expanduser() if options.dir is not None else host.lora_dir()


def _output(options: argparse.Namespace, host: Host) -> Path:
    """The output file; by default in the data folder, which is in no repository."""
    output: Path = options.output or host.data_dir() / "pictures"
    output = output.expanduser()
    return output / DEFAULT_NAME if options.output is None or output.is_dir() else output


def _check(options: argparse.Namespace) -> None:
    """Raise LoraTrainError with everything that can be found wrong before a model is loaded."""
    if found := _precheck(options):
        raise LoraTrainError.of(found)


def _precheck(options: argparse.Namespace) -> list[Problem]:
    from PIL import Image

    from lora_train.device import pick_device
    from lora_train.hosts.standalone import StandaloneHost

    host = StandaloneHost(offline=True)
    found = [
        Problem(f"{value:.10g} is out of range.", name, f"Give a value from {low} to {high:.10g}.")
        for name, value, low, high in (
            ("--count", options.count, 1, 1000),
            ("--steps", options.steps, 1, 1000),
            ("--seed", options.seed, 0, MAX_SEED),
            ("--guidance", 1 if options.guidance is None else options.guidance, 0, 100),
        )
        if not low <= value <= high  # false for NaN, too
    ]
    output = _output(options, host)
    if output.suffix.lower() not in Image.registered_extensions():
        found.append(
            Problem("pictures of this kind cannot be written.", str(output), "Let its name end in .png or .jpg.")
        )
    try:
        pick_device(options.device, "--device")
    except LoraTrainError as error:
        found += error.problems
    return found + ([] if options.allow_missing else _missing(options, host))


def _missing(options: argparse.Namespace, host: Host) -> list[Problem]:
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
        raise LoraTrainError(f"cannot write the picture: {error}.", str(path), "Give another --output.") from error
    free = free_path(path)
    try:
        write_bytes(free, buffer.getvalue())
    except BaseException:
        free.unlink(missing_ok=True)
        raise
    return free
