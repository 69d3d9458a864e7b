"""The base follows prompts, and the mascot's LoRA does what the demo promises."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.demo.mascot import BACKGROUNDS, TAG
from lora_train.demo.run import GUIDANCE, NAME, demo_config
from lora_train.demo.scenes import Scene, caption, random_scene
from lora_train.demo.score import background_followed, mascot_score, object_followed, rate
from lora_train.hosts.standalone import StandaloneHost
from lora_train.models.opening import open_model
from lora_train.prompt.generate import Generator
from lora_train.runs.execute import run_training


def _draw(generator: Generator, prompts: Sequence[str], first_seed: int, tag: str = "") -> list[Image.Image]:
    return [
        generator.generate(f"{prompt} {tag}", [first_seed + i], guidance=GUIDANCE).pictures[0]
        for i, prompt in enumerate(prompts)
    ]


def _scenes(count: int, seed: int) -> tuple[list[Scene], list[str]]:
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    return scenes, [caption(scene, rng) for scene in scenes]


def _followed(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> tuple[float, float]:
    backgrounds = rate(background_followed(p, s.background) for p, s in zip(pictures, scenes))
    return backgrounds, rate(object_followed(p, s.colour) for p, s in zip(pictures, scenes))


def test_the_base_follows_prompts(base: Path, tmp_path: Path) -> None:
    """200 random prompts. The background counts as followed when it is the dominant colour (each pixel
    counted for the nearest of the 12 colours); the object's colour when it covers at least 2 %."""
    scenes, prompts = _scenes(200, seed=1)
    pictures = _draw(Generator(open_model(base), tmp_path), prompts, 1000)
    backgrounds, objects = _followed(pictures, scenes)
    assert backgrounds >= 0.95 and objects >= 0.90, (backgrounds, objects)


@pytest.fixture(scope="module")
def mascot(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The demo's own LoRA, trained here, and a generator that finds it."""
    folder = tmp_path_factory.mktemp("demo")
    result = run_training(demo_config(folder), StandaloneHost(folder / "data"))
    assert result.path == folder / f"{NAME}.safetensors"
    return Generator(open_model(Path(demo_config(folder).model.path)), folder)


def test_the_mascot_is_there_with_the_lora_and_not_without(mascot: Generator) -> None:
    """Scores (normalised correlation with the mascot) of 20 seeds do not overlap, and half strength lies between."""
    prompts = [f"{TAG} on {BACKGROUNDS[i % len(BACKGROUNDS)]}" for i in range(20)]
    scores = {}
    for strength in (0, 0.5, 1):
        pictures = _draw(mascot, prompts, 1, f"<lora:{NAME}:{strength}>" if strength else "")
        scores[strength] = sorted(mascot_score(picture) for picture in pictures)
        if strength == 1:
            kept = rate(background_followed(p, BACKGROUNDS[i % len(BACKGROUNDS)]) for i, p in enumerate(pictures))
            assert kept >= 0.9, kept
    print(scores)
    assert max(scores[0]) < min(scores[1]), scores
    median = {strength: sum(values[9:11]) / 2 for strength, values in scores.items()}
    assert median[0] < median[0.5] < median[1], scores


def test_other_prompts_are_still_followed(mascot: Generator) -> None:
    """Without the tag, at strength 1: at least 80 % of the base's own rates."""
    scenes, prompts = _scenes(40, seed=2)
    without = _followed(_draw(mascot, prompts, 5000), scenes)
    with_lora = _followed(_draw(mascot, prompts, 5000, f"<lora:{NAME}:1>"), scenes)
    assert with_lora[0] >= 0.8 * without[0] and with_lora[1] >= 0.8 * without[1], (with_lora, without)
