"""The demo's recipe: the mascot's LoRA, trained on the shipped pictures, and pictures that show what it learned."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import (
    DataOptions,
    ModelOptions,
    RunConfig,
    SaveOptions,
)
from lora_train.demo.files import GUIDANCE, base_folder, pictures_folder
from lora_train.demo.mascot import TAG
from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from PIL import Image

NAME = "mascot"
COMMENT = "LoRA Train's demo"
"""The metadata by which its LoRA is recognised."""
STRENGTHS = (0.0, 0.5, 1.0)
PROMPTS = tuple(f"{TAG} on {background}" for background in ("blue", "green", "purple", "white", "pink", "black"))
FORMER = {"4_sks", "1_other"}
"""Folders written by demos of version 0.0."""


def write_pictures(folder: Path) -> None:
    """The training set: the pictures that the page has filled in, copied to where a person can see them.

    Those of an earlier demo are replaced. Raises LoraTrainError when the folder holds anything else.
    """
    ours = {path.name for path in pictures_folder().iterdir()} | FORMER
    foreign = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(not name.startswith(".") and name not in ours for name in foreign):
        raise LoraTrainError(
            "this folder, where the demo's pictures go, holds other files.", str(folder), "Give another --out."
        )
    for name in foreign:
        if (folder / name).is_dir() and name in FORMER:
            shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(pictures_folder(), folder, dirs_exist_ok=True)


def demo_config(output_dir: Path, overwrite: bool = True) -> RunConfig:
    """The demo's run on the pictures in `output_dir/pictures` (see `write_pictures`), as the page would start it:
    everything else is chosen automatically."""
    return RunConfig(
        model=ModelOptions(path=str(base_folder())),
        data=DataOptions(folder=str(output_dir / "pictures"), tag=TAG),
        save=SaveOptions(output_name=NAME, output_dir=str(output_dir), overwrite=overwrite, training_comment=COMMENT),
    )


Progress = Callable[[int, int], None]


def _ignore(done: int, total: int) -> None:
    """Shows nothing."""


def before_and_after(lora_dir: Path, name: str = NAME, progress: Progress = _ignore) -> Image.Image:
    """One row per strength, one column per prompt, the same seed down each column; `progress` is called after each
    step."""
    from lora_train.models.opening import open_model
    from lora_train.prompt.generate import Generator
    from lora_train.runs.pictures import contact_sheet

    generator = Generator(open_model(base_folder()), lora_dir)
    rows: list[tuple[str, list[Image.Image]]] = []
    for strength in STRENGTHS:
        tag = f"<lora:{name}:{strength:g}>" if strength else ""
        rows.append((tag or "without the LoRA", []))
        for seed, prompt in enumerate(PROMPTS, 1):
            drawn = sum(len(pictures) for _, pictures in rows)

            def step(done: int, of: int, drawn: int = drawn) -> None:
                progress(drawn * of + done, len(STRENGTHS) * len(PROMPTS) * of)

            made = generator.generate(f"{prompt} {tag}".strip(), [seed], guidance=GUIDANCE, progress=step)
            rows[-1][1].append(made.pictures[0])
    return contact_sheet(rows, PROMPTS)
