"""Real pictures, from packages that bring some, and broken ones."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def real(name: str) -> Image.Image:
    """astronaut (a face), chelsea, coffee, rocket; china, flower."""
    if name in ("china", "flower"):
        return Image.fromarray(pytest.importorskip("sklearn.datasets").load_sample_image(f"{name}.jpg"))
    return Image.fromarray(getattr(pytest.importorskip("skimage.data"), name)())


def noise(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Coarse random blobs, unlike those of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def bomb(side: int = 40_000) -> bytes:
    """A PNG of a few kilobytes that says it is `side` pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")


def write_odd(folder: Path) -> int:
    """Pictures that can be read, in unusual ways; gives their number. All are 160 pixels or longer."""
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(1).save(folder / "turned.jpg", exif=exif)
    noise(2).convert("CMYK").save(folder / "cmyk.jpg")
    deep = np.asarray(noise(3).convert("L"), dtype=np.uint16) * 256
    Image.fromarray(deep).save(folder / "deep.png")
    noise(4).convert("P").save(folder / "palette.png")
    alpha = noise(5).convert("RGBA")
    alpha.paste((0, 0, 0, 0), (0, 0, 80, 120))
    alpha.save(folder / "alpha.png")
    noise(6).save(folder / "moving.gif", save_all=True, append_images=[noise(7), noise(8)])
    noise(9, (20_000, 30)).save(folder / "wide.png")
    noise(10).save(folder / "صورة.png")
    noise(11).save(folder / "🐼 panda.png")
    return 9


def write_broken(folder: Path) -> int:
    """Files that are no pictures, whatever they say; gives their number."""
    folder.mkdir(parents=True)
    whole = BytesIO()
    Image.effect_noise((200, 200), 90).save(whole, "PNG")
    (folder / "half.png").write_bytes(whole.getvalue()[:20_000])
    (folder / "empty.jpg").touch()
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "text.png").write_text("no picture")
    return 4
