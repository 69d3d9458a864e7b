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

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.prompt.generate import Generator
    from lora_train.runs.folder import RunFolder

NAME = "mascot"
STRENGTHS = (0.0, 0.5, 1.0)
PROMPTS = tuple(f"{TAG} on {background}" for background in ("blue", "green", "purple", "white", "pink", "black"))
GUIDANCE = 4.0
"""With more the pictures get noisy; rates are in docs/demo.md."""


MASCOT_REPEATS, OTHER_PICTURES = 4, 16
"""Beside the mascot, a few pictures of other things in the base's own words: without them every object would
turn towards the mascot's colours."""


def write_pictures(folder: Path) -> None:
    """The training set, by folder names as kohya has them: the mascot, and drawn scenes (regularisation)."""
    from lora_train.demo.scenes import caption, draw_scene, random_scene

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pictures_folder(), folder / f"{MASCOT_REPEATS}_{TAG}")
    others, rng = folder / "1_other", random.Random(11)
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
        save=SaveOptions(output_name=NAME, output_dir=str(output_dir), overwrite=overwrite),
    )


def run_demo(out: Path) -> int:
    """Train, draw the contact sheet and the loss plot into `out`, and say where everything is."""
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.runs.folder import list_runs
    from lora_train.runs.stages import Stages
    from lora_train.runs.terminal import train_with_progress

    out = out.absolute()
    host = StandaloneHost(out / "data")
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
    _offer_on_the_page(out)
    _tell(out, drawn)
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


def _offer_on_the_page(out: Path) -> None:
    """Put the LoRA where the page looks for LoRAs."""
    from lora_train.hosts.standalone import StandaloneHost

    folder = StandaloneHost().lora_dir()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / f"{NAME}.safetensors", folder / f"{NAME}.safetensors")


def _tell(out: Path, drawn: list[str]) -> None:
    print()
    print(f"LoRA           {out / f'{NAME}.safetensors'}")
    for line in drawn:
        print(line)
    print()
    print("Open the page with:  python3 start.py ui")
