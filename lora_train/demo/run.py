"""The demo's recipe: the mascot's LoRA on the shipped pictures, and the pictures that show what it learned."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import (
    DataOptions,
    ModelOptions,
    NetworkOptions,
    RunConfig,
    SaveOptions,
    TrainOptions,
)
from lora_train.demo.files import base_folder, pictures_folder
from lora_train.demo.mascot import TAG
from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from PIL import Image

NAME = "mascot"
COMMENT = "LoRA Train's demo"
"""By which its LoRA is known again."""
STRENGTHS = (0.0, 0.5, 1.0)
PROMPTS = tuple(f"{TAG} on {background}" for background in ("blue", "green", "purple", "white", "pink", "black"))
GUIDANCE = 4.0
"""With more the pictures get noisy; rates are in docs/demo.md."""


MASCOT_REPEATS, OTHER_PICTURES = 4, 16
"""Beside the mascot, a few pictures of other things in the base's own words: without them every object would
turn towards the mascot's colours."""


def write_pictures(folder: Path) -> None:
    """The training set, by folder names as kohya has them: the mascot, and drawn scenes (regularisation).

    Those of a former demo are replaced; raises LoraTrainError when the folder holds anything else.
    """
    from lora_train.demo.scenes import caption, draw_scene, random_scene

    mascot, others = folder / f"{MASCOT_REPEATS}_{TAG}", folder / "1_other"
    foreign = [path.name for path in folder.iterdir() if path not in (mascot, others)] if folder.is_dir() else []
    if any(not name.startswith(".") for name in foreign):
        raise LoraTrainError(
            "this folder has other things than the demo's pictures, which go there.", str(folder), "Give another --out."
        )
    for old in (mascot, others):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(pictures_folder(), mascot)
    rng = random.Random(11)
    others.mkdir()
    for number in range(OTHER_PICTURES):
        scene = random_scene(rng)
        draw_scene(scene, rng).save(others / f"{number:02}.png")
        (others / f"{number:02}.txt").write_text(caption(scene, rng), encoding="utf-8")


def demo_config(output_dir: Path, overwrite: bool = True) -> RunConfig:
    """The demo's run on the pictures in `output_dir/pictures` (see `write_pictures`): small enough for two
    cores, long enough to learn the mascot. The captions have the tag already."""
    return RunConfig(
        model=ModelOptions(path=str(base_folder())),
        data=DataOptions(folder=str(output_dir / "pictures"), train_batch_size=4),
        network=NetworkOptions(network_dim=16, network_alpha=16, conv_dim=16, conv_alpha=16),
        train=TrainOptions(
            max_train_steps=700,
            learning_rate=1.5e-3,
            text_encoder_lr=1e-3,
            lr_warmup_steps=20,
        ),
        save=SaveOptions(output_name=NAME, output_dir=str(output_dir), overwrite=overwrite, training_comment=COMMENT),
    )


Progress = Callable[[int, int], None]


def _nobody(done: int, total: int) -> None:
    """Tells nobody."""


def before_and_after(lora_dir: Path, name: str = NAME, progress: Progress = _nobody) -> Image.Image:
    """One row per strength, one column per prompt, the same seed down each column; `progress` hears of each step."""
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
