"""The base follows prompts, and the mascot's LoRA does what the demo promises."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.demo.files import GUIDANCE
from lora_train.demo.mascot import BACKGROUNDS, TAG
from lora_train.demo.scenes import Scene, caption, random_scene
from lora_train.demo.score import background_followed, mascot_score, object_followed, rate, shape_followed
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.models.opening import open_model
from lora_train.models.sampling import Request, sample
from lora_train.prompt.syntax import parse_prompt
from lora_train.runs.demo import NAME, demo_config, write_pictures
from lora_train.runs.execute import run_training
from tools.demo_base.unseen import unseen_drawings
from tools.demo_base.vae import round_trip


def _draw(model: Any, prompts: Sequence[str], first_seed: int) -> list[Image.Image]:
    """One picture per prompt, twenty at a time."""
    pictures = []
    for start in range(0, len(prompts), 20):
        some = prompts[start : start + 20]
        seeds = range(first_seed + start, first_seed + start + len(some))
        side = model.native_resolution
        pictures += sample(model, Request(some, seeds, side, side, guidance=GUIDANCE))
    return pictures


def _draw_with(mascot: Mascot, strength: float, prompts: Sequence[str], first_seed: int) -> list[Image.Image]:
    """The same with the LoRA at `strength`, as `<lora:mascot:...>` applies it."""
    tags = parse_prompt(f"<lora:{NAME}:{strength}>").tags if strength else ()
    mascot.applier.apply([(tag, mascot.file) for tag in tags])
    return _draw(mascot.model, prompts, first_seed)


def _scenes(count: int, seed: int) -> tuple[list[Scene], list[str]]:
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    return scenes, [caption(scene, rng) for scene in scenes]


def _followed(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> tuple[float, float, float]:
    shown = list(zip(pictures, scenes))
    return (
        rate(background_followed(p, s.background) for p, s in shown),
        rate(object_followed(p, s.colour) for p, s in shown),
        rate(shape_followed(p, s.shape) for p, s in shown),
    )


@pytest.mark.slow
def test_the_base_follows_prompts(base: Path) -> None:
    """200 random prompts. The background counts as followed when it is the dominant colour (each pixel
    counted for the nearest of the 12 colours); the object's colour when it covers at least 2 %; the shape when
    its outline fits better than every other shape's."""
    scenes, prompts = _scenes(200, seed=7)
    pictures = _draw(open_model(base), prompts, 1000)
    backgrounds, objects, shapes = _followed(pictures, scenes)
    assert backgrounds >= 0.97 and objects >= 0.95 and shapes >= 0.85, (backgrounds, objects, shapes)


def test_the_vae_brings_back_drawings_of_another_kind(base: Path) -> None:
    """A robot, a fish, a sun and a landscape in any colours: no LoRA can be better than that."""
    drawings = np.stack([np.asarray(picture) for picture in unseen_drawings(12)])
    model: Any = open_model(base)
    assert round_trip(model.vae, drawings) >= 27


@dataclass
class Mascot:
    """The demo's LoRA on its base."""

    model: Any
    applier: Applier
    file: Path


@pytest.fixture(scope="module")
def mascot(tmp_path_factory: pytest.TempPathFactory) -> Mascot:
    """The demo's own LoRA, trained here."""
    folder = tmp_path_factory.mktemp("demo")
    write_pictures(folder / "pictures")
    result = run_training(demo_config(folder), StandaloneHost(folder / "data"))
    assert result.path == folder / f"{NAME}.safetensors"
    model = open_model(Path(demo_config(folder).model.path))
    return Mascot(model, Applier(modules_by_file_name(model)), result.path)


@pytest.mark.slow
def test_the_mascot_is_there_with_the_lora_and_not_without(mascot: Mascot) -> None:
    """Scores (normalised correlation with the mascot) of 20 seeds do not overlap, and half strength lies between."""
    prompts = [f"{TAG} on {BACKGROUNDS[i % len(BACKGROUNDS)]}" for i in range(20)]
    scores = {}
    for strength in (0, 0.5, 1):
        pictures = _draw_with(mascot, strength, prompts, 1)
        scores[strength] = sorted(mascot_score(picture) for picture in pictures)
        if strength == 1:
            kept = rate(background_followed(p, BACKGROUNDS[i % len(BACKGROUNDS)]) for i, p in enumerate(pictures))
            assert kept >= 0.9, kept
    assert max(scores[0]) < min(scores[1]), scores
    median = {strength: sum(values[9:11]) / 2 for strength, values in scores.items()}
    assert median[0] < median[0.5] < median[1], scores


@pytest.mark.slow
def test_other_prompts_are_still_followed(mascot: Mascot) -> None:
    """Without the tag, at strength 1: at least 90 % of the base's own rates."""
    scenes, prompts = _scenes(40, seed=2)
    without = _followed(_draw_with(mascot, 0, prompts, 5000), scenes)
    with_lora = _followed(_draw_with(mascot, 1, prompts, 5000), scenes)
    assert all(kept >= 0.9 * own for kept, own in zip(with_lora, without)), (with_lora, without)
