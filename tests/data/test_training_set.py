from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_train.config import DataOptions
from lora_train.data import training_set
from lora_train.data.buckets import place
from lora_train.data.cache import LatentCache, entry_key
from lora_train.data.scan import Picture, scan
from lora_train.data.training_set import Dataset, build_dataset, count_epoch, placements
from lora_train.errors import LoraTrainError
from tests.conftest import draw_pictures

OPTIONS = DataOptions(resolution=128, min_bucket_reso=64, max_bucket_reso=256, bucket_reso_steps=64)


class FakeEncoder:
    """Latents that are the picture itself, averaged over 8 x 8 pixels."""

    family = "sd1"
    vae_hash = "fake"

    def __init__(self) -> None:
        self.encoded = 0

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 3, height // 8, width // 8

    def encode_pictures(self, pixels: torch.Tensor, tiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        self.encoded += len(pixels)
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return mean, torch.zeros_like(mean)


def _build(
    folder: Path, cache: Path, encoder: FakeEncoder, options: DataOptions = OPTIONS, may_encode: bool = True
) -> Dataset:
    manifest = scan(folder, repeats=2)
    return build_dataset(manifest, options, encoder, LatentCache(cache), 8, lambda done, total: None, may_encode)


def test_latents_are_made_once_and_only_changes_again(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 4)
    encoder = FakeEncoder()
    first = _build(folder, tmp_path / "cache", encoder)
    assert encoder.encoded == 4
    again = _build(folder, tmp_path / "cache", encoder)
    assert encoder.encoded == 4
    for key, (mean, _) in first.latents.items():
        assert torch.equal(mean, again.latents[key][0])
    Image.new("RGB", (128, 128), "red").save(folder / "picture-0.png")
    _build(folder, tmp_path / "cache", encoder)
    assert encoder.encoded == 5
    _build(folder, tmp_path / "cache", encoder, replace(OPTIONS, flip_aug=True))
    assert encoder.encoded == 13


def test_the_key_covers_everything() -> None:
    placement = place((100, 50), [(64, 64)])
    keys = {
        entry_key("a", placement, False, "v", "float32"),
        entry_key("b", placement, False, "v", "float32"),
        entry_key("a", place((50, 100), [(64, 64)]), False, "v", "float32"),
        entry_key("a", placement, True, "v", "float32"),
        entry_key("a", placement, False, "w", "float32"),
        entry_key("a", placement, False, "v", "float16"),
    }
    assert len(keys) == 6


def test_flipped_latents_are_those_of_the_mirrored_picture(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 1)
    dataset = _build(folder, tmp_path / "cache", FakeEncoder(), replace(OPTIONS, flip_aug=True))
    plain, mirrored = (dataset.latents[key][0] for key in dataset.items[0].keys)
    assert torch.allclose(plain.flip(-1), mirrored)
    assert not torch.allclose(plain, mirrored)


def test_batches_never_mix_buckets_and_show_every_look(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 7, sizes=((128, 128), (200, 100), (100, 200)))
    dataset = _build(folder, tmp_path / "cache", FakeEncoder())
    for batch_size in (1, 2, 3):
        batches = dataset.epoch(batch_size, "seed")
        assert sorted(i for batch in batches for i in batch) == sorted(list(range(7)) * 2)
        for batch in batches:
            assert len(batch) <= batch_size
            assert len({dataset.items[i].placement.bucket for i in batch}) == 1
    assert dataset.epoch(2, "a") == dataset.epoch(2, "a") != dataset.epoch(2, "b")


def test_what_a_subset_says_wins_over_the_run(tmp_path: Path) -> None:
    """Size, buckets, flips and batches of its own; a batch holds pictures of one size of batch."""
    folder = draw_pictures(tmp_path / "in", 6, sizes=((128, 128),))
    own = (("enable_bucket", False), ("flip_aug", True), ("height", 64), ("resolution", 96), ("train_batch_size", 3))
    manifest = scan(folder)
    manifest.pictures[:3] = [replace(picture, own=own, repeats=2) for picture in manifest.pictures[:3]]
    manifest.pictures[3:] = [replace(picture, repeats=1) for picture in manifest.pictures[3:]]
    cache = LatentCache(tmp_path / "cache")
    dataset = build_dataset(manifest, OPTIONS, FakeEncoder(), cache, 8, lambda done, total: None)
    assert [(item.placement.bucket, len(item.keys)) for item in dataset.items] == [((96, 64), 2)] * 3 + [
        ((128, 128), 1)
    ] * 3
    batches = dataset.epoch(2, "seed")
    assert sorted((len(batch), dataset.items[batch[0]].placement.bucket) for batch in batches) == [
        (1, (128, 128)), (2, (128, 128)), (3, (96, 64)), (3, (96, 64))
    ]  # fmt: skip
    assert dataset.batches_per_epoch(2) == len(batches) == 4
    assert count_epoch(manifest.pictures, replace(OPTIONS, train_batch_size=2), 8) == (9, 4)
    plain = build_dataset(scan(folder), OPTIONS, FakeEncoder(), cache, 8, lambda done, total: None)
    assert plain.fingerprint() != dataset.fingerprint()


def test_batches_are_counted_once_and_not_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _build(draw_pictures(tmp_path / "in", 3), tmp_path / "cache", FakeEncoder())
    first = dataset.batches_per_epoch(2)
    monkeypatch.setattr(training_set, "batches_of", lambda *given: pytest.fail("counted again"))
    assert dataset.batches_per_epoch(2) == first == len(dataset.epoch(2, "seed"))


def test_sizes_that_are_not_square() -> None:
    """With buckets only the area counts, without it is this size."""
    pictures = [Picture(Path(), 1000, 1000, "", "", 1)]
    for buckets, expected in ((True, (576, 576)), (False, (512, 704))):
        options = replace(OPTIONS, resolution=512, height=704, enable_bucket=buckets, max_bucket_reso=1024)
        assert placements(pictures, options, 64)[0].bucket == expected


def test_a_picture_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 3)
    Image.effect_noise((128, 128), 90).save(folder / "half.png")
    (folder / "half.png").write_bytes((folder / "half.png").read_bytes()[:2000])
    manifest = scan(folder)
    dataset = build_dataset(manifest, OPTIONS, FakeEncoder(), LatentCache(tmp_path / "c"), 8, lambda done, total: None)
    assert len(dataset.items) == 3
    assert "damaged" in manifest.rejected[0].reason


def test_missing_latents_are_an_error_where_none_may_be_made(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 2)
    with pytest.raises(LoraTrainError, match="2 pictures have not been prepared"):
        _build(folder, tmp_path / "cache", FakeEncoder(), may_encode=False)


def test_stopping_keeps_what_was_encoded(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 12)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    encoder = FakeEncoder()
    with pytest.raises(KeyboardInterrupt):
        build_dataset(scan(folder), OPTIONS, encoder, LatentCache(tmp_path / "cache"), 8, stop)
    assert encoder.encoded == 8
    _build(folder, tmp_path / "cache", encoder)
    assert encoder.encoded == 12


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 2)
    encoder = FakeEncoder()
    _build(folder, tmp_path / "cache", encoder)
    shard = next((tmp_path / "cache").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    _build(folder, tmp_path / "cache", encoder)
    assert encoder.encoded == 4


def test_out_of_memory_tries_one_by_one_and_names_the_picture(tmp_path: Path) -> None:
    class Small(FakeEncoder):
        most = 1
        in_tiles = 1

        def encode_pictures(self, pixels: torch.Tensor, tiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
            if len(pixels) > (self.in_tiles if tiled else self.most):
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            return super().encode_pictures(pixels)

    folder, encoder = draw_pictures(tmp_path / "in", 3), Small()
    found = _build(folder, tmp_path / "a", encoder)
    assert len(found.items) == 3 and encoder.encoded == 3 and not found.notes
    encoder.most = 0
    noted = _build(folder, tmp_path / "tiles", encoder).notes
    assert len(noted) == 3 and "picture-0.png was encoded in tiles" in noted[0]
    encoder.in_tiles = 0
    with pytest.raises(LoraTrainError, match=r"picture-0\.png: there is not enough memory to encode it at 128 x 128"):
        _build(folder, tmp_path / "b", encoder)


def test_pixels_are_red_green_blue_from_minus_one_to_one(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (128, 128), (255, 0, 51)).save(folder / "a.png")
    dataset = _build(folder, tmp_path / "cache", FakeEncoder())
    ((mean, _),) = dataset.latents.values()
    assert mean.shape == (3, 16, 16)
    assert torch.allclose(mean[:, 0, 0], torch.tensor([1.0, -1.0, -0.6]), atol=1e-5)


def test_pictures_meet_others_in_each_epoch(tmp_path: Path) -> None:
    """Not only the batches are in another order."""
    dataset = _build(draw_pictures(tmp_path / "in", 8), tmp_path / "cache", FakeEncoder())
    together = [{frozenset(batch) for batch in dataset.epoch(2, f"seed {number}")} for number in range(5)]
    assert len({frozenset(pairs) for pairs in together}) == 5


def test_the_fingerprint_is_that_of_all_that_is_trained_on(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 2)
    found = [_build(folder, tmp_path / "cache", FakeEncoder()).fingerprint()]
    assert _build(folder, tmp_path / "cache", FakeEncoder()).fingerprint() == found[0]
    (folder / "picture-0.txt").write_text("another caption", encoding="utf-8")
    found.append(_build(folder, tmp_path / "cache", FakeEncoder()).fingerprint())
    Image.new("RGB", (128, 128), "red").save(folder / "picture-1.png")
    found.append(_build(folder, tmp_path / "cache", FakeEncoder()).fingerprint())
    found.append(_build(folder, tmp_path / "cache", FakeEncoder(), replace(OPTIONS, flip_aug=True)).fingerprint())
    (tmp_path / "repeated").mkdir()
    folder.rename(tmp_path / "repeated" / "3_in")
    found.append(_build(tmp_path / "repeated", tmp_path / "cache", FakeEncoder()).fingerprint())
    assert len(set(found)) == 5


def test_without_buckets_the_one_size_is_in_steps_of_the_model() -> None:
    picture = Picture(Path("a.png"), 300, 200, "", "", 1)
    for resolution, step, side in ((130, 64, 128), (128, 64, 128), (127, 64, 64), (40, 64, 64)):
        (placement,) = placements([picture], replace(OPTIONS, enable_bucket=False, resolution=resolution), step)
        assert placement.bucket == (side, side)
