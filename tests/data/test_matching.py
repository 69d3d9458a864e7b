"""Paths of other computers lead to the pictures that they mean, and to no others."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from lora_train.data.matching import match_ends

ROOT = Path("/data/new")


def match(names: list[str], *pictures: str) -> dict[str, str]:
    found = match_ends(names, [ROOT / picture for picture in pictures], ROOT)
    return {name: path.relative_to(ROOT).as_posix() for name, path in found.items()}


@pytest.mark.parametrize(
    ("name", "pictures", "meant"),
    [
        ("C:\\a\\10_sks\\0.png", ["5_x/0.png", "10_sks/0.png"], "10_sks/0.png"),
        ("/old/img/10_sks/0.png", ["img/10_sks/0.png", "reg/10_sks/0.png"], "img/10_sks/0.png"),
        ("/old/10_sks/0", ["deep/10_sks/0.webp"], "deep/10_sks/0.webp"),
        ("\\\\nas\\photos\\0.PNG", ["0.png"], "0.png"),
        ("/flat/only-one.png", ["10_sks/only-one.png"], "10_sks/only-one.png"),
        ("x/" + unicodedata.normalize("NFD", "été.png"), ["x/" + unicodedata.normalize("NFC", "été.png")], None),
        ("/old/a/0.png", ["b/0.png", "c/0.png"], ""),
        ("/old/a/0.png", ["a/00.png"], ""),
        ("", ["a/0.png"], ""),
        ("/", ["a/0.png"], ""),
        ("C:", ["a/0.png"], ""),
    ],
)
def test_what_a_name_means(name: str, pictures: list[str], meant: str | None) -> None:
    found = match([name], *pictures)
    assert found == ({} if meant == "" else {name: pictures[0] if meant is None else meant})


def test_no_picture_is_meant_twice_and_the_longer_end_wins() -> None:
    names = ["/old/b/0.png", "/old/a/0.png"]
    assert match(names, "a/0.png") == {"/old/a/0.png": "a/0.png"}
    assert match(names, "a/0.png", "b/0.png") == {name: name.removeprefix("/old/") for name in names}
