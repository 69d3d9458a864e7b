"""The pictures that the base is trained on, drawn by all cores: for the VAE alone, and with captions."""

from __future__ import annotations

import os
import random
import string
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
from PIL import Image

from lora_train.demo.scenes import (
    COLOURS,
    caption,
    draw_collage,
    draw_scene,
    random_scene,
    short_caption,
)
from tools.demo_base.things import creature_scene, crowd, thing_scene

CHUNK = 500


def vae_picture(rng: random.Random) -> Image.Image:
    """One picture for the VAE: collages and crowds in any colours, and pictures like the captioned ones."""
    kind = rng.random()
    if kind < 0.3:
        return draw_collage(rng)
    if kind < 0.7:
        return crowd(rng)
    return captioned(rng)[0]


def captioned(rng: random.Random) -> tuple[Image.Image, tuple[str, str]]:
    """One picture with its captions, a short and a full one.

    Half are plain shapes, which the rates are measured on. A tenth have a meaningless word in the caption: they show
    a plain shape in any colour, so that an unknown word draws a plain shape rather than a smear.
    """
    kind = rng.random()
    if kind < 0.25:
        picture, text = thing_scene(rng)
        return picture, (text, text)
    if kind < 0.42:
        picture, text = creature_scene(rng)
        return picture, (text, text)
    scene = random_scene(rng)
    if scene.pattern in ("striped", "dotted") and rng.random() < 0.6:
        scene = replace(scene, pattern="", second="")
    if kind < 0.52:
        scene = replace(scene, pattern="", second="", eyes=False)
        text = f"{unknown_word(rng)} on {scene.background}"
        return draw_scene(scene, rng), (text, text)
    return draw_scene(scene, rng), (short_caption(scene), caption(scene, rng))


def unknown_word(rng: random.Random) -> str:
    """A word of two to seven letters that is not a colour."""
    while True:
        word = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randrange(2, 8)))
        if word not in COLOURS:
            return word


def _vae_chunk(number: int) -> np.ndarray:
    rng = random.Random(f"vae {number}")
    return np.stack([np.asarray(vae_picture(rng)) for _ in range(CHUNK)])


def _captioned_chunk(number: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    rng = random.Random(f"captioned {number}")
    drawn = [captioned(rng) for _ in range(CHUNK)]
    return np.stack([np.asarray(picture) for picture, _ in drawn]), [words for _, words in drawn]


def vae_pictures(count: int) -> np.ndarray:
    """uint8 (count, 128, 128, 3); the same for the same count."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(_vae_chunk, range(count // CHUNK))))


def captioned_pictures(count: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """uint8 (count, 128, 128, 3), and each picture's short and full caption."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        chunks = list(pool.map(_captioned_chunk, range(count // CHUNK)))
    return np.concatenate([pictures for pictures, _ in chunks]), [words for _, chunk in chunks for words in chunk]
