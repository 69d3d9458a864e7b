from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_train.pictures import opening as pictures
from lora_train.pictures.opening import (
    BrokenPicture,
    NoReader,
    NotHere,
    has_alpha,
    load_alpha,
    load_picture,
    look_at,
    picture_size,
)


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


def flat(value: float, kind: type) -> Image.Image:
    return Image.fromarray(np.full((16, 16), value, kind))


@pytest.mark.parametrize(
    ("value", "kind", "grey"),
    [
        (40000, np.int32, 156),
        (150, np.int32, 150),
        (1_000_000_000, np.int32, 255),
        (0.6, np.float32, 153),
        (150.0, np.float32, 150),
        (40000.0, np.float32, 156),
    ],
)
def test_32_bits_and_floating_point_are_scaled_by_their_range(
    tmp_path: Path, value: float, kind: type, grey: int
) -> None:
    flat(value, kind).save(tmp_path / "a.tif")
    found = load_picture(tmp_path / "a.tif").getpixel((0, 0))
    assert isinstance(found, tuple) and found == (found[0],) * 3 and abs(found[0] - grey) <= 1


def test_floating_point_with_negatives_and_no_numbers(tmp_path: Path) -> None:
    values = np.zeros((4, 4), np.float32)
    values[0] = (-1, 1, np.nan, np.inf)
    Image.fromarray(values).save(tmp_path / "a.tif")
    row = [load_picture(tmp_path / "a.tif").getpixel((x, 0))[0] for x in range(4)]  # type: ignore[index]
    assert row[:2] == [0, 255] and row[3] == 255
    assert abs(load_picture(tmp_path / "a.tif").getpixel((0, 1))[0] - 128) <= 1  # type: ignore[index]


def test_lab_is_converted(tmp_path: Path) -> None:
    Image.new("LAB", (8, 8), (150, 128, 128)).save(tmp_path / "a.tif")
    red, green, blue = load_picture(tmp_path / "a.tif").getpixel((0, 0))  # type: ignore[misc]
    assert max(red, green, blue) - min(red, green, blue) <= 3 and 100 < green < 180


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"


@pytest.mark.parametrize(
    ("start", "kind", "package"),
    [
        (HEIC, "HEIC", "pillow-heif"),
        (AVIF, "AVIF", "pillow-avif-plugin"),
        (b"\xff\x0a", "JPEG XL", "pillow-jxl-plugin"),
    ],
)
def test_without_a_reader_the_kind_and_the_package_are_named_whatever_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes, kind: str, package: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(start + bytes(400))

    def unidentified(path: Path) -> Image.Image:
        raise Image.UnidentifiedImageError(path)

    monkeypatch.setattr(Image, "open", unidentified)
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".png": "PNG"})
    with pytest.raises(NoReader, match=f"{kind}.*pip install {package}"):
        picture_size(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".heic": "", ".avif": "", ".jxl": ""})
    with pytest.raises(BrokenPicture, match=f"damaged .*{kind}"):
        picture_size(tmp_path / "a.jpg")


def test_a_large_picture_comes_reduced_without_a_second_one_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "LARGE", 10_000)
    image = Image.linear_gradient("L").resize((400, 300)).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 200, 300))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    converted: list[int] = []
    as_rgb = pictures._as_rgb

    def noting(band: Image.Image, *more: Any) -> Any:
        converted.append(band.height)
        return as_rgb(band, *more)

    monkeypatch.setattr(pictures, "_as_rgb", noting)
    monkeypatch.setattr(pictures, "BAND", 8_000)
    whole, small = load_picture(tmp_path / "a.png"), load_picture(tmp_path / "a.png", 100)
    assert whole.size == (300, 400) and small.size == (75, 100)
    assert converted[0] == 400 and len(converted) > 5 and max(converted[1:]) < 30
    wanted = np.asarray(whole.reduce(4), dtype=int)
    assert np.abs(np.asarray(small, dtype=int) - wanted).max() <= 2


def test_running_out_of_memory_names_the_size_and_is_not_remembered_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pictures, "_as_rgb", full)
    with pytest.raises(NotHere, match="not enough memory.*64 x 48"):
        load_picture(tmp_path / "a.png")


def test_animations_are_told_from_still_pictures(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert look_at(tmp_path / name).moving, name
        frames[0].save(tmp_path / name)
        assert not look_at(tmp_path / name).moving, name
    frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
    assert look_at(tmp_path / "a.mpo") == (8, 8, False)
