"""Tags by a WD14-style tagger: an ONNX model with the `selected_tags.csv` that names its outputs.

Input as SmilingWolf's taggers expect it: padded to a white square, BGR, 0 to 255, channels last.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lora_train.errors import LoraTrainError

MODEL_FILE, TAGS_FILE = "model.onnx", "selected_tags.csv"
GENERAL_THRESHOLD, CHARACTER_THRESHOLD = 0.35, 0.85
GENERAL, CHARACTER = "0", "4"
"""Categories in the table; "9" is the rating, which is not a tag."""
BATCH = 4
INSTALL_ONNX = "Install it: pip install onnxruntime (or onnxruntime-gpu), or choose another captioner."
GIVE_A_TAGGER = f"Give a folder with {MODEL_FILE} and {TAGS_FILE}, such as that of a WD14 tagger."


@dataclass(frozen=True)
class Tagger:
    """A loaded model: `size` is the side of its square input, `batch` the pictures of one call (0: any number)."""

    session: Any
    input: str
    size: int
    batch: int
    tags: list[tuple[str, str]]


def onnx_tags(
    model: str,
    pictures: Iterable[Image.Image],
    general: float = GENERAL_THRESHOLD,
    character: float = CHARACTER_THRESHOLD,
    device: str = "cpu",
) -> Iterator[str]:
    """One comma-separated list per picture: characters first, then general tags, the likeliest leading.

    `model` is a folder, or the .onnx file itself. Tags are spelled as in the table, with underscores.
    Raises LoraTrainError when onnxruntime is not installed or this is not such a tagger.
    """
    tagger = _load(Path(model), device)
    left = iter(pictures)
    while batch := list(islice(left, tagger.batch or BATCH)):
        for probabilities in _run(tagger, batch, model)[: len(batch)]:
            yield ", ".join(_chosen(probabilities, tagger.tags, {GENERAL: general, CHARACTER: character}))


def prepare(picture: Image.Image, size: int) -> np.ndarray:
    """The tagger's input for one picture: (size, size, 3), float32, BGR from 0 to 255."""
    picture = picture.convert("RGB")
    side = max(picture.size)
    square = Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square, dtype=np.float32)[:, :, ::-1])


def _run(tagger: Tagger, batch: list[Image.Image], model: str) -> np.ndarray:
    pixels = np.stack([prepare(picture, tagger.size) for picture in batch])
    if missing := max(0, tagger.batch - len(batch)):
        pixels = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
    try:
        output = np.asarray(tagger.session.run(None, {tagger.input: pixels})[0])
    except Exception as error:  # onnxruntime's exceptions have no base class
        raise LoraTrainError(f"the tagger failed ({_first_line(error)}).", model, GIVE_A_TAGGER) from error
    if output.shape != (len(pixels), len(tagger.tags)):
        what = f"the tagger has {output.shape[-1] if output.ndim else 0} outputs, {TAGS_FILE} names {len(tagger.tags)}."
        raise LoraTrainError(what, model, "Use both files of the same tagger.")
    return output


def _chosen(probabilities: np.ndarray, tags: list[tuple[str, str]], thresholds: dict[str, float]) -> list[str]:
    found = []
    for category in (CHARACTER, GENERAL):
        likely = [
            (float(probability), name)
            for probability, (name, kind) in zip(probabilities, tags)
            if kind == category and probability > thresholds[category]
        ]
        found += [name for _, name in sorted(likely, key=lambda pair: -pair[0])]
    return found


def _load(model: Path, device: str) -> Tagger:
    try:
        import onnxruntime
    except ImportError as error:
        raise LoraTrainError(
            "WD14 taggers need onnxruntime, which is not installed.",
            "captioner",
            INSTALL_ONNX,
        ) from error
    file, table = tagger_files(model)
    tags = _read_tags(table)
    cuda = "CUDAExecutionProvider"
    wanted = device.startswith("cuda") and cuda in onnxruntime.get_available_providers()
    providers = [(cuda, {"device_id": int(device.partition(":")[2] or 0)})] if wanted else []
    try:
        session = onnxruntime.InferenceSession(str(file), providers=[*providers, "CPUExecutionProvider"])
        entrance = session.get_inputs()[0]
        shape = list(entrance.shape)
    except Exception as error:  # as above
        raise LoraTrainError(
            f"the tagger cannot be loaded ({_first_line(error)}).", str(file), GIVE_A_TAGGER
        ) from error
    if len(shape) != 4 or shape[3] != 3 or not isinstance(shape[1], int) or shape[1] != shape[2] or shape[1] < 1:
        what = f"this is not a WD14-style tagger: its input is {shape}, not [batch, size, size, 3]."
        raise LoraTrainError(what, str(file), GIVE_A_TAGGER)
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 0
    return Tagger(session, entrance.name, shape[1], batch, tags)


def tagger_files(model: Path) -> tuple[Path, Path]:
    """The model's file and its table of tags; `model` is their folder, or the .onnx file."""
    file = model if model.suffix.lower() == ".onnx" else model / MODEL_FILE
    return file, file.with_name(TAGS_FILE)


def _read_tags(file: Path) -> list[tuple[str, str]]:
    """Name and category of each output, in the model's order."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            tags = [(row["name"], row["category"]) for row in csv.DictReader(lines)]
        if not tags or any(name is None or kind is None for name, kind in tags):
            raise ValueError("a name or category is missing")
    except OSError as error:
        raise LoraTrainError(f"cannot read the tagger's table: {error.strerror}.", str(file), GIVE_A_TAGGER) from error
    except (KeyError, ValueError, csv.Error) as error:
        raise LoraTrainError(f"this is not a tagger's table ({error}).", str(file), GIVE_A_TAGGER) from error
    return tags


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
