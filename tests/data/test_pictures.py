from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_train.data.pictures import BrokenPicture, has_alpha, load_alpha, load_picture, picture_size


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert picture_size(tmp_path / "a.jpg") == (20, 40)
    assert load_picture(tmp_path / "a.jpg").size == (20, 40)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["exif", "xmp"])
def test_a_pngs_size_is_that_of_the_loaded_picture(tmp_path: Path, kind: str, late: bool) -> None:
    exif, texts = Image.Exif(), PngInfo()
    exif[0x0112] = 6
    texts.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    file = tmp_path / "a.png"
    Image.new("RGB", (40, 20), "red").save(file, **({"exif": exif} if kind == "exif" else {"pnginfo": texts}))
    if late:  # as exiftool writes it
        data = file.read_bytes()
        start = data.index(b"eXIf" if kind == "exif" else b"iTXt") - 4
        stop = start + int.from_bytes(data[start : start + 4], "big") + 12
        file.write_bytes(data[:start] + data[stop:-12] + data[start:stop] + data[-12:])
    assert picture_size(file) == load_picture(file).size == (20, 40)


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (0, 0, 0)), ("L", 0), ("P", 0)])
def test_a_colour_that_counts_as_transparent(tmp_path: Path, mode: str, colour: int | tuple[int, int, int]) -> None:
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.png", transparency=colour)
    assert load_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    assert has_alpha(tmp_path / "a.png")
    assert load_alpha(tmp_path / "a.png").getextrema() == (0, 0)


def test_alpha_is_put_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (8, 8), "white").convert(mode).save(tmp_path / "a.tif")
    picture = load_picture(tmp_path / "a.tif")
    assert picture.mode == "RGB" and picture.getpixel((0, 0)) == (255, 255, 255)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    red, _, blue = load_picture(tmp_path / "a.gif").getpixel((0, 0))  # type: ignore[misc]
    assert red > 200 and blue < 50


def test_broken_files_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with pytest.raises(BrokenPicture, match="empty"):
        picture_size(tmp_path / "empty.png")
    with pytest.raises(BrokenPicture, match="not a picture"):
        picture_size(tmp_path / "text.png")
    assert picture_size(tmp_path / "half.png") == (64, 64)
    with pytest.raises(BrokenPicture, match="damaged"):
        load_picture(tmp_path / "half.png")


def test_a_bomb_is_not_opened(tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(BrokenPicture, match="too large"):
        load_picture(tmp_path / "bomb.png")
