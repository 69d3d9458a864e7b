"""How good the base is: the rates of 200 prompts, what an unknown word draws, and the VAE's round trip."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lora_train.demo.scenes import Scene, caption, random_scene
from lora_train.demo.score import background_followed, object_followed, rate, shape_followed
from lora_train.models.opening import open_model
from lora_train.models.sampling import Request, sample
from tools.demo_base.drawing import captioned
from tools.demo_base.unseen import unseen_drawings
from tools.demo_base.vae import round_trip

PROMPTS, SEED, GUIDANCE = 200, 7, 4.0


def scenes_and_prompts() -> tuple[list[Scene], list[str]]:
    """The 200 scenes and their captions; those of the training have other seeds."""
    rng = random.Random(SEED)
    scenes = [random_scene(rng) for _ in range(PROMPTS)]
    return scenes, [caption(scene, rng) for scene in scenes]


def measure(folder: Path, sheet: Path) -> None:
    """Print the scores of the base in `folder`, and write a sheet of pictures for inspection."""
    model: Any = open_model(folder)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        model.to(torch.device("cuda"), torch.float32)
    batch = 100 if on_gpu else 20

    def draw(prompts: list[str], first: int) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for start in range(0, len(prompts), batch):
            some = prompts[start : start + batch]
            seeds = range(first + start, first + start + len(some))
            pictures += sample(model, Request(some, seeds, 128, 128, guidance=GUIDANCE))
        return pictures

    scenes, prompts = scenes_and_prompts()
    pictures = draw(prompts, 1000)
    print(f"backgrounds {rate(background_followed(p, s.background) for p, s in zip(pictures, scenes)):.1%}")
    print(f"colours     {rate(object_followed(p, s.colour) for p, s in zip(pictures, scenes)):.1%}")
    print(f"shapes      {rate(shape_followed(p, s.shape) for p, s in zip(pictures, scenes)):.1%}")
    unseen = unseen_drawings(24)
    print(f"round trip  {round_trip(model.vae, np.stack([np.asarray(p) for p in unseen])):.1f} dB")
    rng = random.Random(21)
    others = [captioned(rng)[1][1] for _ in range(24)]
    unknown = [f"sks on {colour}" for colour in ("blue", "green", "white", "pink", "black", "yellow")] * 2
    rows = [pictures[:12], pictures[12:24], *_in_rows(draw(others, 3000)), *_in_rows(draw(unknown, 4000))]
    _sheet(rows).save(sheet)
    print("\n".join(prompts[:24] + others))


def _in_rows(pictures: list[Image.Image]) -> list[list[Image.Image]]:
    return [pictures[i : i + 12] for i in range(0, len(pictures), 12)]


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    sheet = Image.new("RGB", (12 * 130, len(rows) * 130))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * 130, y * 130))
    return sheet
