"""What the demo's base is trained on, and that its training goes on where it stopped."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.demo.scenes import COLOURS, draw_scene, random_scene
from lora_train.demo.score import background_followed, rate, shape_followed
from tools.demo_base import model as base_model
from tools.demo_base import vae as base_vae
from tools.demo_base.drawing import captioned, unknown_word
from tools.demo_base.optimising import orthogonal
from tools.demo_base.things import PARTS, creature_scene, thing_scene
from tools.demo_base.unseen import unseen_drawings

CPU = torch.device("cpu")
FORBIDDEN = ("cat", "robot", "fish", "sun", "sks")


def test_captions_are_true() -> None:
    """The background is the one named, the first colour covers a part, and no concept of the trials is there."""
    rng = random.Random(3)
    for draw in (thing_scene, creature_scene):
        for _ in range(30):
            picture, text = draw(rng)
            words = text.replace(",", "").split()
            assert picture.size == (128, 128) and not set(FORBIDDEN) & set(words)
            assert background_followed(picture, words[-1]), text
            share = np.mean(np.abs(np.asarray(picture, dtype=int) - COLOURS[words[0]]).sum(axis=2) < 40)
            assert share > 0.01, text


def test_every_kind_of_thing_is_drawn() -> None:
    rng = random.Random(4)
    seen = " ".join(captioned(rng)[1][1] for _ in range(500))
    assert all(name in seen for name in PARTS) and "animal" in seen


def test_unknown_words_are_no_colours() -> None:
    rng = random.Random(5)
    words = [unknown_word(rng) for _ in range(300)]
    assert not set(words) & set(COLOURS) and all(word.isalpha() and 2 <= len(word) <= 7 for word in words)


def test_the_shape_is_told_from_the_others() -> None:
    """On drawn pictures the rule holds; on a picture without the shape it does not."""
    rng = random.Random(6)
    scenes = [replace(random_scene(rng), pattern="", second="", eyes=False) for _ in range(16)]
    assert rate(shape_followed(draw_scene(scene, rng), scene.shape) for scene in scenes) >= 0.95
    assert not shape_followed(draw_scene(replace(scenes[0], shape="circle"), rng), "star")


def test_an_update_is_made_orthogonal() -> None:
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6 and values.max() < 1.3
    assert orthogonal(matrix.T).shape == (20, 6)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.stack([np.asarray(picture.resize((128, 128))) for picture in unseen_drawings(4, size=32)])


def test_the_vae_goes_on_where_it_stopped(pictures: np.ndarray, tmp_path: Path) -> None:
    """Two steps and two more are the bits of four, over the change from crops to whole pictures."""
    how = base_vae.VaeSettings(crop_steps=2, crop_batch=1, full_steps=2, full_batch=1, pictures=4)
    made = []
    for parts in ((4,), (2, 4)):
        work = tmp_path / str(len(parts))
        work.mkdir()
        for last in parts:
            torch.manual_seed(0)
            vae = base_vae.vae_model()
            base_vae.train_vae(vae, pictures, pictures[:1], work, how, CPU, stop_at=last)
        made.append(vae.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_the_base_goes_on_where_it_stopped(tmp_path: Path) -> None:
    from tools.demo_base.pretrain import tokenizer_of

    tokenizer = tokenizer_of(tmp_path)
    latents = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    captions = [("red star on blue", "large red star on a blue background")] * 6
    how = base_model.ModelSettings(steps=3, batch=2, pictures=6)
    made = []
    for parts in ((3,), (1, 3)):
        work = tmp_path / f"model{len(parts)}"
        work.mkdir()
        for last in parts:
            torch.manual_seed(0)
            models = base_model.unet_model(), base_model.text_model(tokenizer), tokenizer
            ema = base_model.train_model(models, captions, latents, work, how, CPU, stop_at=last)
        made.append(ema.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_unseen_drawings_are_the_same_each_time() -> None:
    first, again = unseen_drawings(4), unseen_drawings(4)
    assert all(np.array_equal(one, other) for one, other in zip(map(np.asarray, first), map(np.asarray, again)))
    assert all(isinstance(picture, Image.Image) and picture.size == (128, 128) for picture in first)
