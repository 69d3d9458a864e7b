"""Captions by any program that is given a picture's path and prints the caption."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from PIL import Image

PLACEHOLDER = "{picture}"
TIMEOUT = 600.0
"""Seconds for one picture."""


def command_captions(
    command: Sequence[str], pictures: Iterable[Image.Image], timeout: float = TIMEOUT
) -> Iterator[str]:
    """One caption per picture: what `command` prints, whitespace collapsed.

    `command` is a program and its arguments; no shell sees it. `{picture}` in an argument becomes the
    path of the picture as a PNG file. Only the person at the machine may choose the command. Raises
    LoraTrainError when the program is missing, fails, or takes longer than `timeout` seconds.
    """
    if isinstance(command, str) or not command or not any(PLACEHOLDER in part for part in command[1:]):
        raise LoraTrainError(
            f"the captioner's command must be a program and its arguments, one of them with {PLACEHOLDER}.",
            "captioner command",
            f'Write it as a list, like ["my-captioner", "--image", "{PLACEHOLDER}"].',
        )
    with tempfile.TemporaryDirectory(prefix="lora-train-caption-") as folder:
        file = Path(folder) / "picture.png"
        arguments = [command[0], *(part.replace(PLACEHOLDER, str(file)) for part in command[1:])]
        for picture in pictures:
            picture.convert("RGB").save(file, compress_level=1)
            yield _run(arguments, timeout)


def _run(arguments: list[str], timeout: float) -> str:
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise _failed(arguments, f"took longer than {timeout:g} seconds") from error
    except (OSError, ValueError) as error:
        raise _failed(arguments, f"cannot be started ({error})") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _failed(arguments, f"failed with code {done.returncode}{': ' + said[-1] if said else ''}")
    return " ".join(done.stdout.decode("utf-8", "replace").split())


def _failed(arguments: list[str], how: str) -> LoraTrainError:
    return LoraTrainError(
        f"the captioner's program {how}.", arguments[0], "Try the command in a terminal with one of your pictures."
    )
