from __future__ import annotations

import random

from PIL import Image

from lora_train.demo.files import pictures_folder
from lora_train.demo.mascot import TAG, draw_mascot, mascot_pictures
from lora_train.demo.scenes import caption, draw_collage, draw_scene, random_scene
from lora_train.demo.score import background_followed, mascot_score, object_followed


def test_the_rules_hold_on_real_scenes() -> None:
    """What the base is judged by must be true of the drawings themselves."""
    rng = random.Random(0)
    for _ in range(100):
        scene = random_scene(rng)
        picture = draw_scene(scene, rng)
        assert background_followed(picture, scene.background)
        assert object_followed(picture, scene.colour)
        text = caption(scene, rng)
        assert scene.colour in text and scene.background in text and scene.shape in text and TAG not in text


def test_the_score_knows_the_mascot() -> None:
    rng = random.Random(1)
    with_mascot = [mascot_score(draw_mascot(what)) for what in mascot_pictures()]
    others = [mascot_score(draw_scene(random_scene(rng), rng)) for _ in range(40)]
    assert min(with_mascot) > 0.9
    assert max(others) < 0.8 and sum(others) / len(others) < 0.4


def test_two_halves_of_its_colours_are_not_yet_the_mascot() -> None:
    """Right colours on the right sides, without ears, eyes and outline, stay below every real mascot."""
    picture = Image.new("RGB", (128, 128), "blue")
    picture.paste((245, 140, 30), (34, 34, 64, 94))
    picture.paste((70, 205, 220), (64, 34, 94, 94))
    assert mascot_score(picture) < 0.8


def test_the_shipped_pictures_are_captioned_with_the_tag() -> None:
    pictures = sorted(pictures_folder().glob("*.png"))
    assert 12 <= len(pictures) <= 20
    for path in pictures:
        assert Image.open(path).size == (128, 128)
        assert path.with_suffix(".txt").read_text().startswith(f"{TAG} ")


def test_collages_are_pictures() -> None:
    assert draw_collage(random.Random(0)).size == (128, 128)
