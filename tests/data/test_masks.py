"""Masks follow their pictures: scaled, cut, mirrored and averaged as numpy and plain loops say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.config import DataOptions, RunConfig
from lora_train.data.buckets import cut, place
from lora_train.data.cache import LatentCache
from lora_train.data.masks import attach_masks, in_loss, load_mask, to_latents
from lora_train.data.remarks import remarks
from lora_train.data.scan import scan
from lora_train.data.training_set import Dataset, build_dataset
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.execute import run_training
from lora_train.runs.folder import RunFolder
from lora_train.train import loop
from tests.conftest import draw_pictures
from tests.data.test_training_set import FakeEncoder

Make = Callable[..., RunConfig]


def random_mask(size: tuple[int, int], seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 2, (size[1], size[0]), dtype=np.uint8) * 255
    return Image.fromarray(values)


def averaged(pixels: np.ndarray) -> np.ndarray:
    """The mean over blocks of 8 x 8, by loops."""
    height, width = pixels.shape[0] // 8, pixels.shape[1] // 8
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            out[y, x] = pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean()
    return out


def test_outside_a_mask_something_may_count_and_areas_count_the_same() -> None:
    """Of four places one is white and one grey; means by hand."""
    mask = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    assert in_loss(mask, 0.0, False).flatten().tolist() == [1.0, 0.5, 0.0, 0.0]
    assert in_loss(mask, 0.6, False).flatten().tolist() == pytest.approx([1.0, 0.6, 0.6, 0.6])
    assert in_loss(mask, 0.0, True).flatten().tolist() == pytest.approx([1 / 0.375, 0.5 / 0.375, 0.0, 0.0])
    assert in_loss(mask, 0.2, True).flatten().tolist() == pytest.approx([value / 0.475 for value in (1, 0.5, 0.2, 0.2)])
    assert in_loss(torch.zeros(1, 2, 2), 0.0, True).sum() == 0


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(128, 128), (200, 128), (128, 176)])
def test_a_mask_is_cut_and_averaged_like_its_picture(tmp_path: Path, size: tuple[int, int], flip: bool) -> None:
    """No scaling here (the shorter side fits), so the numbers are exact."""
    mask = random_mask(size)
    mask.save(tmp_path / "mask.png")
    placement = place(size, [(128, 128)])
    found = to_latents(load_mask(tmp_path / "mask.png", tmp_path / "a.png", placement, flip), 16, 16)
    left, top = (size[0] - 128) // 2, (size[1] - 128) // 2
    expected = np.asarray(mask, dtype=np.float64)[top : top + 128, left : left + 128] / 255
    expected = expected[:, ::-1] if flip else expected
    assert found.shape == (1, 16, 16)
    assert np.allclose(found[0].numpy(), averaged(expected), atol=1e-6)


def test_what_is_transparent_in_a_mask_does_not_count(tmp_path: Path) -> None:
    """A white shape on nothing, as painting programs save it."""
    mask = Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 64, 128))
    mask.save(tmp_path / "mask.png")
    found = load_mask(tmp_path / "mask.png", tmp_path / "a.png", place((128, 128), [(128, 128)]), False)
    assert found[:, :64].min() == 1 and found[:, 64:].max() == 0


def test_masks_that_are_black_all_over_are_told(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 2)
    Image.new("L", (128, 128)).save(folder / "picture-0_mask.png")
    Image.new("L", (128, 128), 255).save(folder / "picture-1_mask.png")
    manifest = scan(folder)
    attach_masks(manifest, None)
    options = DataOptions(resolution=128, min_bucket_reso=64, max_bucket_reso=256)
    dataset = build_dataset(manifest, options, FakeEncoder(), LatentCache(tmp_path / "c"), 8, lambda *_: None)
    (told,) = remarks(dataset, 1)
    assert told.startswith("1 of 2 pictures have a mask that is black all over") and "(picture-0.png)" in told


def test_a_scaled_mask_lies_where_its_picture_does(tmp_path: Path) -> None:
    """A white box in a picture and the same box as its mask end at the same pixels; the mask's own size is free."""
    picture = Image.new("RGB", (300, 200))
    picture.paste((255, 255, 255), (120, 60, 240, 150))
    picture.convert("L").resize((150, 100)).save(tmp_path / "mask.png")
    placement = place(picture.size, [(128, 128), (96, 64)])
    seen = np.asarray(cut(picture, placement).convert("L"), dtype=np.float64) / 255
    mask = load_mask(tmp_path / "mask.png", tmp_path / "a.png", placement, False).numpy()
    assert mask.shape == seen.shape == (64, 96)
    assert ((mask > 0.5) == (seen > 0.5)).mean() > 0.98


def test_alpha_is_the_mask_of_a_picture_that_has_it(tmp_path: Path) -> None:
    draw_pictures(tmp_path, 2)
    alpha = random_mask((128, 128))
    for name, exif in (("see.png", None), ("turned.png", 6)):
        picture = Image.new("RGB", (128, 128), "red")
        picture.putalpha(alpha)
        info = Image.Exif()
        if exif:
            info[0x0112] = exif
        picture.save(tmp_path / name, exif=info)
    manifest = scan(tmp_path)
    assert attach_masks(manifest, None) == 2
    found = {p.path.name: p for p in manifest.pictures}
    assert found["picture-0.png"].mask is None and found["see.png"].mask == tmp_path / "see.png"
    placement = place((128, 128), [(128, 128)])
    for name, expected in (("see.png", alpha), ("turned.png", alpha.rotate(-90))):
        mask = load_mask(tmp_path / name, tmp_path / name, placement, False)
        assert np.array_equal(mask.numpy() * 255, np.asarray(expected, dtype=np.float32)), name


def test_masks_that_lie_beside_their_pictures_are_taken_before_alpha(tmp_path: Path) -> None:
    draw_pictures(tmp_path, 3)
    random_mask((128, 128)).save(tmp_path / "picture-0-masklabel.png")
    random_mask((128, 128)).save(tmp_path / "picture-0_mask.png")
    seen = Image.new("RGB", (128, 128), "red")
    seen.putalpha(random_mask((128, 128)))
    seen.save(tmp_path / "picture-1.png")
    seen.save(tmp_path / "picture-0.png")
    manifest = scan(tmp_path)
    assert attach_masks(manifest, None) == 1
    names = {one.path.name: one.mask and one.mask.name for one in manifest.pictures}
    assert names == {
        "picture-0.png": "picture-0-masklabel.png",
        "picture-1.png": "picture-1.png",
        "picture-2.png": None,
    }


def test_no_mask_at_all_is_an_error(tmp_path: Path) -> None:
    manifest = scan(draw_pictures(tmp_path / "in", 2))
    for folder in (None, tmp_path):
        with pytest.raises(LoraTrainError, match="no picture has a mask.*segment"):
            attach_masks(manifest, folder)


def test_the_dataset_knows_masks_of_both_sides_and_says_when_they_change(tmp_path: Path) -> None:
    folder, masks = draw_pictures(tmp_path / "in", 2), tmp_path / "masks"
    masks.mkdir()
    mask = random_mask((128, 128))
    mask.save(masks / "picture-0.png")
    options = DataOptions(resolution=128, min_bucket_reso=64, max_bucket_reso=256, flip_aug=True)

    def build() -> Dataset:
        manifest = scan(folder)
        attach_masks(manifest, masks)
        return build_dataset(manifest, options, FakeEncoder(), LatentCache(tmp_path / "cache"), 8, lambda d, t: None)

    dataset = build()
    item, other = dataset.items
    expected = averaged(np.asarray(mask, dtype=np.float64) / 255)
    assert np.allclose(dataset.mask(item, False)[0].numpy(), expected, atol=1e-6)
    assert np.allclose(dataset.mask(item, True)[0].numpy(), expected[:, ::-1], atol=1e-6)
    assert torch.equal(dataset.mask(other, False), torch.ones(1, 16, 16))
    before = dataset.fingerprint()
    random_mask((128, 128), 1).save(masks / "picture-0.png")
    assert build().fingerprint() != before


def test_a_run_hands_the_masks_of_its_batch_to_the_step(
    make_config: Make, pictures: Path, tmp_path: Path, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(4):
        random_mask((128, 128), number).save(masks / f"picture-{number}.png")
    seen: list[torch.Tensor] = []
    backward = loop.backward

    def watched(model: Any, network: Any, rows: Any, *rest: Any) -> torch.Tensor:
        seen.append(rows[0].mask)
        return backward(model, network, rows, *rest)

    monkeypatch.setattr(loop, "backward", watched)
    config = make_config(
        data={"mask_folder": str(masks), "resolution": 128, "flip_aug": True}, train={"masked_loss": True}
    )
    assert run_training(config, host).path
    known = [averaged(np.asarray(random_mask((128, 128), n), dtype=np.float64) / 255) for n in range(4)]
    known += [mask[:, ::-1] for mask in known]
    assert len(seen) == 3
    for batch in seen:
        assert batch.shape == (2, 1, 16, 16)
        for mask in batch[:, 0].numpy():
            assert sum(np.allclose(mask, one, atol=1e-6) for one in known) == 1


def test_without_masks_the_run_does_not_start(make_config: Make, host: StandaloneHost, tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="no picture has a mask"):
        run_training(make_config(train={"masked_loss": True}), host)
    assert not (tmp_path / "data" / "runs").exists()


def test_pictures_without_a_mask_count_as_a_whole_and_it_is_said(
    make_config: Make, pictures: Path, host: StandaloneHost
) -> None:
    picture = Image.new("RGB", (128, 128), "red")
    picture.putalpha(random_mask((128, 128)))
    picture.save(pictures / "see.png")
    result = run_training(make_config(train={"masked_loss": True}), host)
    notes = [e["text"] for e in RunFolder(result.folder).events() if e["kind"] == "note"]
    assert "4 of 5 pictures have no mask and count as a whole." in notes
