"""The demo: train the mascot's LoRA on the shipped pictures, and show what it learned."""

from __future__ import annotations

import random
import shutil
import time
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

    from lora_train.prompt.generate import Generator
    from lora_train.runs.folder import RunFolder

NAME = "mascot"
COMMENT = "LoRA Train's demo"
"""By which its LoRA is known again."""
BESIDE = (".json", ".preview.png", ".safetensors")
"""What it is made of, the LoRA last."""
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


def run_demo(out: Path) -> int:
    """Train, draw the contact sheet and the loss plot into `out`, and say where everything is."""
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.runs.folder import list_runs
    from lora_train.runs.stages import Stages
    from lora_train.runs.terminal import train_with_progress

    out = out.absolute()
    host = StandaloneHost(out / "data")
    made = out / f"{NAME}.safetensors"
    if made.exists() and not ((out / "pictures").is_dir() or _is_the_demos(made)):
        raise LoraTrainError("this is another LoRA of the demo's name.", str(made), "Give another --out.")
    write_pictures(out / "pictures")
    print(f"Training a LoRA of the mascot on the pictures in {out / 'pictures'}")
    started = time.monotonic()
    code = train_with_progress(demo_config(out), host, Stages())
    if code:
        return code
    print(f"Preparing and training took {time.monotonic() - started:.0f} seconds.")
    run = list_runs(host.data_dir() / "runs")[0]
    drawn = [_draw("Loss", out / "loss.png", lambda: _loss_plot(run))]
    print("Drawing the contact sheet ...")
    drawn.insert(0, _draw("Before, after", out / "contact-sheet.png", lambda: before_and_after(out)))
    _tell(out, drawn)
    try:
        said = offer_on_the_page(out, StandaloneHost().lora_dir())
    except LoraTrainError as error:  # the demo is done all the same
        said = f"The page does not get it: {error}"
    print(f"\nnote: {said}" if said else "")
    print("Open the page with:  python3 start.py ui")
    return 0


def _loss_plot(run: RunFolder) -> Image.Image:
    from lora_train.runs.pictures import loss_plot

    steps = [event for event in run.events() if event["kind"] == "step"]
    return loss_plot([e["step"] for e in steps], [e["loss"] for e in steps], [e["smoothed"] for e in steps])


def _draw(title: str, path: Path, make: Callable[[], Image.Image]) -> str:
    """The line that says where the picture is, or why there is none: the LoRA is trained all the same."""
    from lora_train.runs.pictures import save_picture
    from lora_train.runs.writer import in_words

    try:
        save_picture(make(), path)
    except Exception as error:
        return f"{title:<15}not drawn: {in_words(error)}"
    return f"{title:<15}{path}"


def before_and_after(lora_dir: Path) -> Image.Image:
    """One row per strength, one column per prompt, the same seed down each column."""
    from lora_train.models.opening import open_model
    from lora_train.prompt.generate import Generator
    from lora_train.runs.pictures import contact_sheet

    generator = Generator(open_model(base_folder()), lora_dir)
    rows = []
    for strength in STRENGTHS:
        label = f"<lora:{NAME}:{strength:g}>" if strength else "without the LoRA"
        rows.append((label, [_one(generator, prompt, strength, seed) for seed, prompt in enumerate(PROMPTS, 1)]))
    return contact_sheet(rows, PROMPTS)


def _one(generator: Generator, prompt: str, strength: float, seed: int) -> Image.Image:
    text = f"{prompt} <lora:{NAME}:{strength:g}>" if strength else prompt
    return generator.generate(text, [seed], guidance=GUIDANCE).pictures[0]


def offer_on_the_page(out: Path, folder: Path) -> str:
    """Copy the LoRA with its card and preview to `folder`, where the page looks for LoRAs.

    A LoRA of that name which is no demo's stays, and so do a card and a preview that are there; returns what to say
    of the first, or "".
    Raises LoraTrainError when the folder cannot be written.
    """
    from lora_train.atomic import write_bytes

    there = folder / f"{NAME}.safetensors"
    if folder.resolve() == out.resolve():
        return ""
    if there.exists() and not _is_the_demos(there):
        return f"The page does not get it: {there} is another LoRA of that name, and stays."
    for ending in BESIDE:
        made, copy = out / f"{NAME}{ending}", folder / f"{NAME}{ending}"
        if made.is_file() and (copy == there or not copy.exists()):  # a card may be a person's by now
            write_bytes(copy, made.read_bytes())
    return ""


def _is_the_demos(path: Path) -> bool:
    from lora_train.lorafile.reading import file_metadata

    try:
        return path.is_file() and file_metadata(path).get("ss_training_comment") == COMMENT
    except LoraTrainError:
        return False


def _tell(out: Path, drawn: list[str]) -> None:
    print()
    print(f"LoRA           {out / f'{NAME}.safetensors'}")
    for line in drawn:
        print(line)
