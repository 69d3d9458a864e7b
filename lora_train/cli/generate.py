"""`lora-train generate`: pictures without a page."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from lora_train.cli.parser import Switch
from lora_train.errors import LoraTrainError, Problem
from lora_train.showing import as_shown

MAX_SEED = 2**63 - 1


def add_generate(commands: Any) -> None:
    """The command "generate"."""
    generate = commands.add_parser("generate", help="make pictures; <lora:name:strength> works in the prompt")
    generate.add_argument("prompt", help="what to draw")
    generate.add_argument("--model", default=None, metavar="PATH", help="base model")
    generate.add_argument("--dir", default=None, metavar="FOLDER", help="folder of LoRAs")
    generate.add_argument("--negative", default="", help="negative prompt")
    generate.add_argument("--seed", type=int, default=1, help="first seed (default %(default)s)")
    generate.add_argument("--count", type=int, default=1, help="number of pictures (default %(default)s)")
    generate.add_argument("--steps", type=int, default=20, help="default %(default)s")
    generate.add_argument("--guidance", type=float, help="default: the usual one of the base model's family")
    generate.add_argument(
        "--v-parameterization",
        action=Switch,
        help="whether the base predicts v (default: as its files say)",
    )
    generate.add_argument(
        "--output",
        type=Path,
        default=Path("picture.png"),
        help="file to write (default %(default)s); where there is one already, a number is added",
    )
    generate.add_argument(
        "--offline", action="store_true", help="download nothing (CLIP's tokenizer, where it is missing)"
    )
    generate.set_defaults(run=_generate, look=_look)


def _generate(options: argparse.Namespace) -> int:
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.models.hub import local_model
    from lora_train.models.opening import open_model
    from lora_train.models.prediction import Assumed
    from lora_train.models.tokenizers import TokenizerSources
    from lora_train.prompt.generate import Generator

    _check(options)
    host = StandaloneHost(offline=options.offline)
    model = local_model(options.model) if options.model is not None else str(host.current_checkpoint() or "")
    if not model:
        raise LoraTrainError("no base model is given.", "--model", "Give --model FILE_OR_FOLDER.")
    folder = Path(options.dir) if options.dir is not None else host.lora_dir()
    seeds = range(options.seed, options.seed + options.count)
    sources = TokenizerSources(host.tokenizers, host.downloads, lambda text: print(f"note: {text}", file=sys.stderr))
    base = open_model(Path(model), sources, Assumed(options.v_parameterization))
    made = Generator(base, folder).generate(options.prompt, seeds, options.negative, options.steps, options.guidance)
    for note in [*base.notes, *made.notes]:
        print(f"note: {as_shown(note)}", file=sys.stderr)
    for number, picture in enumerate(made.pictures):
        path = options.output
        if options.count > 1:
            path = path.with_name(f"{path.stem}-{seeds[number]}{path.suffix}")
        print(_write_picture(picture, path))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise LoraTrainError with all that is wrong with the numbers and the picture's name."""
    if found := _look(options):
        raise LoraTrainError.of(found)


def _look(options: argparse.Namespace) -> list[Problem]:
    from PIL import Image

    found = [
        Problem(f"{value:.10g} is out of range.", name, f"Give a value from {low} to {high:.10g}.")
        for name, value, low, high in (
            ("--count", options.count, 1, 1000),
            ("--steps", options.steps, 1, 1000),
            ("--seed", options.seed, 0, MAX_SEED),
            ("--guidance", 1 if options.guidance is None else options.guidance, 0, 100),
        )
        if not low <= value <= high  # which "not a number" is not, either
    ]
    if options.output.suffix.lower() not in Image.registered_extensions():
        found.append(Problem("this is no kind of picture.", str(options.output), "End it in .png or .jpg."))
    return found


def _write_picture(picture: Any, path: Path) -> Path:
    """Write the picture under the first free name from `path` on, which is given back. Raises LoraTrainError."""
    from PIL import Image

    from lora_train.atomic import write_bytes

    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    buffer = io.BytesIO()
    try:
        picture.save(buffer, Image.registered_extensions()[path.suffix.lower()])
    except (OSError, ValueError, KeyError) as error:
        raise LoraTrainError(f"cannot write the picture: {error}.", str(path), "Give another --output.") from error
    write_bytes(free, buffer.getvalue())
    return free
