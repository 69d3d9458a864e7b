"""Merging into checkpoints and extracting from them, for each family in the original layout."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lora_train.demo.checkpoint import ldm_tensors
from lora_train.demo.files import base_folder
from lora_train.errors import LoraTrainError, Stopped
from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.lorafile.checkpoints import open_checkpoint, places_of
from lora_train.lorafile.extracting import Extraction, extract
from lora_train.lorafile.factors import Cut
from lora_train.lorafile.merging_into import MERGED, merge_into
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.writing import serialise, write_lora
from lora_train.models.opening import open_model
from lora_train.prompt.syntax import LoraTag
from tests.lorafile.witness import apart, deltas
from tests.models.tiny import tiny_sd2, tiny_sdxl, write_checkpoint, write_tokenizer


def _sd1(path: Path) -> Path:
    """The shipped base in the original layout, fp32."""
    write_tokenizer(path.parent / "tokenizer", pad_with_first=False)
    tensors = {name: value.float() for name, value in ldm_tensors(base_folder()).items()}
    path.write_bytes(serialise(tensors, {"modelspec.title": "x", "modelspec.hash_sha256": "0x1"}))
    return path


WRITE: dict[str, Callable[[Path], Path]] = {
    "sd1": _sd1,
    "sd2": lambda path: write_checkpoint(tiny_sd2(), path),
    "sdxl": lambda path: write_checkpoint(tiny_sdxl(), path),
}


@pytest.fixture(scope="module", params=WRITE)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITE[request.param](tmp_path_factory.mktemp(request.param) / f"{request.param}.safetensors")


def _lora(checkpoint: Path, path: Path, rank: int = 2, seed: int = 0, convolutions: bool = True) -> Path:
    """A random LoRA on all modules of the model, named by the model itself."""
    model: Any = open_model(checkpoint)
    modules = modules_by_file_name(model)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in sorted(model.module_names(convolutions)):
        weight: Any = modules[name].weight
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.1
        tensors[f"{name}.lora_up.weight"] = torch.randn(
            weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator
        )
        tensors[f"{name}.alpha"] = torch.tensor(rank / 2)
    write_lora(path, tensors, {}, "fp32", overwrite=True)
    return path


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}.{name}": value
        for prefix, root in (*model.roots().items(), ("vae", model.vae))
        for name, value in root.state_dict().items()
    }


def test_a_merged_checkpoint_is_the_model_with_the_loras_on(checkpoint: Path, tmp_path: Path) -> None:
    one, two = _lora(checkpoint, tmp_path / "one.safetensors"), _lora(checkpoint, tmp_path / "two.safetensors", 3, 1)
    output = checkpoint.with_name("merged.safetensors")
    absent = merge_into(checkpoint, [read_lora(one), read_lora(two)], (0.8, -0.5), output, overwrite=True)
    assert absent == ()
    model: Any = open_model(checkpoint)
    before = {name: value.clone() for name, value in _weights(model).items()}
    tags = [(LoraTag("one", 0.8, 0.8), one), (LoraTag("two", -0.5, -0.5), two)]
    Applier(modules_by_file_name(model)).apply(tags)
    expected, found = _weights(model), _weights(open_model(output))
    assert expected.keys() == found.keys()
    changed = [name for name in expected if not torch.equal(before[name], expected[name])]
    assert len(changed) == len(deltas(read_lora(one).tensors))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-5, rtol=1e-5), name
        assert name in changed or torch.equal(found[name], before[name])


def test_what_no_lora_touches_stays_bit_by_bit(checkpoint: Path, tmp_path: Path) -> None:
    lora = _lora(checkpoint, tmp_path / "one.safetensors", convolutions=False)
    output = tmp_path / "merged.safetensors"
    merge_into(checkpoint, [read_lora(lora)], [1.0], output)
    before, after = safetensors.torch.load_file(checkpoint), safetensors.torch.load_file(output)
    assert {k: (v.dtype, v.shape) for k, v in before.items()} == {k: (v.dtype, v.shape) for k, v in after.items()}
    places, changed = places_of(open_checkpoint(checkpoint)), read_lora(lora).by_module()
    touched = {places[name].key for name in changed}
    for key, value in before.items():
        assert torch.equal(value, after[key]) == (key not in touched)
    with safetensors.safe_open(output, "pt") as file:
        told = json.loads(file.metadata()[MERGED])
        assert "modelspec.hash_sha256" not in file.metadata()
    assert told == [
        {"name": "one.safetensors", "weight": 1.0, "sshs_model_hash": read_lora(lora).metadata["sshs_model_hash"]}
    ]


def test_merged_minus_base_is_the_lora_again(checkpoint: Path, tmp_path: Path) -> None:
    lora = read_lora(_lora(checkpoint, tmp_path / "one.safetensors"))
    output = tmp_path / "merged.safetensors"
    merge_into(checkpoint, [lora], [1.0], output)
    # fp32 weights of size 1 hold differences to 1e-7 or so; ranks are known
    made, cuts = extract(checkpoint, output, Extraction(Cut(2), Cut(2)))
    assert apart(deltas(made.tensors), deltas(lora.tensors)) < 1e-4
    assert all(one.kept > 0.9999 for one in cuts)
    whole, _ = extract(checkpoint, output, Extraction(Cut(), Cut()))
    assert apart(deltas(whole.tensors), deltas(lora.tensors)) < 1e-4
    energy, _ = extract(
        checkpoint, output, Extraction(Cut(keep="frobenius", amount=0.999), Cut(keep="frobenius", amount=0.999))
    )
    assert {v.shape[0] for k, v in energy.tensors.items() if k.endswith("down.weight")} <= {1, 2}
    assert {key.split(".")[0] for key in made.tensors} == {key.split(".")[0] for key in lora.tensors}


def test_extraction_can_leave_parts_out(tmp_path: Path) -> None:
    base = _sd1(tmp_path / "base.safetensors")
    lora = read_lora(_lora(base, tmp_path / "one.safetensors"))
    merge_into(base, [lora], [1.0], tmp_path / "merged.safetensors")
    made, _ = extract(base, tmp_path / "merged.safetensors", Extraction(Cut(2), text=False))
    names = {key.split(".")[0] for key in made.tensors}
    assert names == {n for n in open_model(base).module_names(False) if n.startswith("lora_unet_")}
    assert made.metadata["ss_base_model_version"] == "sd_v1"
    with pytest.raises(LoraTrainError, match="do not differ"):
        extract(base, base, Extraction(Cut(2)))
    with pytest.raises(LoraTrainError, match="do not differ"):
        extract(base, tmp_path / "merged.safetensors", Extraction(Cut(2), min_difference=1e6))
    with pytest.raises(LoraTrainError, match="another family"):
        extract(base, WRITE["sd2"](tmp_path / "sd2.safetensors"), Extraction(Cut(2)))


def test_half_precision_is_summed_in_fp32(tmp_path: Path) -> None:
    base = _sd1(tmp_path / "base.safetensors")
    half = {name: value.half() for name, value in safetensors.torch.load_file(base).items()}
    (tmp_path / "half.safetensors").write_bytes(serialise(half, {}))
    lora = read_lora(_lora(base, tmp_path / "one.safetensors"))
    merge_into(tmp_path / "half.safetensors", [lora, lora], [0.01, 0.01], tmp_path / "merged.safetensors")
    found = safetensors.torch.load_file(tmp_path / "merged.safetensors")
    key, name = "model.diffusion_model.middle_block.1.proj_in.weight", "lora_unet_mid_block_attentions_0_proj_in"
    expected = (half[key].float().flatten(1) + 0.02 * deltas(lora.tensors)[name].float()).half()
    assert found[key].dtype == torch.float16
    assert float((found[key].flatten(1).float() - expected.float()).abs().max()) <= 2e-3 * float(expected.abs().max())
    assert torch.equal(found[key].flatten(1), expected) or (found[key].flatten(1) != expected).float().mean() < 0.01
    with pytest.raises(LoraTrainError, match="its F16 cannot hold"):
        merge_into(tmp_path / "half.safetensors", [lora], [1e9], tmp_path / "large.safetensors")
    assert not (tmp_path / "large.safetensors").exists()


@pytest.mark.parametrize("kind", ["loha", "full", "dora"])
def test_other_kinds_are_merged_as_they_are_applied(kind: str, tmp_path: Path) -> None:
    base, name = _sd1(tmp_path / "base.safetensors"), "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2"
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2"
    torch.manual_seed(0)
    before = safetensors.torch.load_file(base)
    weight, bias = before[f"{key}.weight"], before[f"{key}.bias"]
    out, into = weight.shape
    a, b, c, d = torch.randn(out, 2), torch.randn(2, into), torch.randn(out, 2), torch.randn(2, into)
    scale = torch.rand(out, 1) + 0.5
    merged = weight + (a @ b)
    parts, expected, its_bias = {
        "loha": (
            {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(1.0)},
            weight + 0.5 * (a @ b) * (c @ d),
            bias,
        ),
        "full": ({"diff": a @ b, "diff_b": a[:, 0]}, merged, bias + a[:, 0]),
        "dora": (
            {"lora_down.weight": b, "lora_up.weight": a, "dora_scale": scale},
            scale * merged / merged.norm(dim=1, keepdim=True),
            bias,
        ),
    }[kind]
    file = LoraFile(tmp_path / "x", {f"{name}.{part}": value for part, value in parts.items()}, {})
    merge_into(base, [file], [1.0], tmp_path / "merged.safetensors")
    after = safetensors.torch.load_file(tmp_path / "merged.safetensors")
    assert torch.allclose(after[f"{key}.weight"], expected, atol=1e-5, rtol=1e-4)
    assert torch.allclose(after[f"{key}.bias"], its_bias, atol=1e-6)


def test_a_lora_for_another_base_is_refused_by_name(tmp_path: Path) -> None:
    base = _sd1(tmp_path / "base.safetensors")
    xl = _lora(WRITE["sdxl"](tmp_path / "xl" / "xl.safetensors"), tmp_path / "xl.safetensors", convolutions=False)
    with pytest.raises(LoraTrainError, match="another base model, SDXL") as caught:
        merge_into(base, [read_lora(xl)], [1.0], tmp_path / "out.safetensors")
    assert str(xl) in str(caught.value)
    wrong = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(2, 7)}
    wrong["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"] = torch.ones(9, 2)
    with pytest.raises(LoraTrainError, match="lora_unet_mid_block_attentions_0_proj_in does not fit"):
        merge_into(base, [LoraFile(tmp_path / "w", wrong, {})], [1.0], tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert not list(tmp_path.glob(".*"))
    for path, message in ((tmp_path / "none.ckpt", "no such"), (xl, "not a Stable Diffusion checkpoint")):
        with pytest.raises(LoraTrainError, match=message):
            places_of(open_checkpoint(path))


def test_a_stopped_merge_leaves_nothing(tmp_path: Path) -> None:
    base = _sd1(tmp_path / "base.safetensors")
    lora = read_lora(_lora(base, tmp_path / "one.safetensors"))

    def stop(done: int, total: int) -> None:
        if done == 100:
            raise Stopped

    with pytest.raises(Stopped):
        merge_into(base, [lora], [1.0], tmp_path / "out.safetensors", progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"base.safetensors", "one.safetensors", "tokenizer"}
    (tmp_path / "out.safetensors").write_text("mine")
    with pytest.raises(LoraTrainError, match="exists already"):
        merge_into(base, [lora], [1.0], tmp_path / "out.safetensors")


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("odd", [False, True], ids=["texts", "numbers"])
def test_safetensors_are_merged_into_whatever_their_name_and_metadata(tmp_path: Path, ending: str, odd: bool) -> None:
    plain = _sd1(tmp_path / "x.safetensors")
    lora = read_lora(_lora(plain, tmp_path / "lora.safetensors"))
    merge_into(plain, [lora], [1.0], tmp_path / "expected.safetensors")
    data = plain.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    metadata = {"modelspec.title": "mine", "steps": 100 if odd else "100"}
    header = json.dumps(json.loads(data[8 : 8 + length]) | {"__metadata__": metadata}).encode()
    given = tmp_path / f"given{ending}"
    given.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    merge_into(given, [lora], [1.0], tmp_path / "out.safetensors")
    found, expected = (safetensors.torch.load_file(tmp_path / f"{n}.safetensors") for n in ("out", "expected"))
    assert set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    told = open_checkpoint(tmp_path / "out.safetensors").metadata
    assert (told["modelspec.title"], told["steps"]) == ("mine", "100")


def test_pickled_checkpoints_are_read_too(tmp_path: Path) -> None:
    base = _sd1(tmp_path / "base.safetensors")
    torch.save({"state_dict": safetensors.torch.load_file(base)}, tmp_path / "base.ckpt")
    lora = read_lora(_lora(base, tmp_path / "one.safetensors"))
    for source in ("base.safetensors", "base.ckpt"):
        merge_into(tmp_path / source, [lora], [1.0], tmp_path / f"{source}-merged.safetensors")
    a, b = (
        safetensors.torch.load_file(tmp_path / f"{s}-merged.safetensors") for s in ("base.safetensors", "base.ckpt")
    )
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_weak_change_of_8_bits_is_not_rounded_away(tmp_path: Path, dtype: torch.dtype) -> None:
    base = _sd1(tmp_path / "base.safetensors")
    lora = read_lora(_lora(base, tmp_path / "one.safetensors"))
    small = {name: value.to(dtype) for name, value in safetensors.torch.load_file(base).items()}
    (tmp_path / "eight.safetensors").write_bytes(serialise(small, {}))
    said: list[str] = []
    merge_into(tmp_path / "eight.safetensors", [lora], [1e-2], tmp_path / "merged.safetensors", tell=said.append)
    found = safetensors.torch.load_file(tmp_path / "merged.safetensors")
    key, name = "model.diffusion_model.middle_block.1.proj_in.weight", "lora_unet_mid_block_attentions_0_proj_in"
    change = 1e-2 * deltas(lora.tensors)[name].float()
    apart_by = found[key].flatten(1).float() - small[key].flatten(1).float() - change
    assert float(apart_by.norm()) < 0.05 * float(change.norm())
    assert found["first_stage_model.encoder.conv_in.weight"].dtype == dtype  # not changed
    assert len(said) == 1 and "F16 in the result" in said[0]


def test_a_change_that_rounding_takes_is_said(tmp_path: Path) -> None:
    base = _sd1(tmp_path / "base.safetensors")
    lora = read_lora(_lora(base, tmp_path / "one.safetensors"))
    half = {name: value.bfloat16() for name, value in safetensors.torch.load_file(base).items()}
    (tmp_path / "half.safetensors").write_bytes(serialise(half, {}))
    said: list[str] = []
    merge_into(tmp_path / "half.safetensors", [lora], [1e-6], tmp_path / "a.safetensors", tell=said.append)
    assert len(said) == 1 and "most of it is lost to rounding" in said[0]
    said.clear()
    merge_into(base, [lora], [1e-12], tmp_path / "d.safetensors", tell=said.append)
    assert len(said) == 1 and "most of it is lost to rounding" in said[0]  # fp32 has steps, too
    said.clear()
    merge_into(tmp_path / "half.safetensors", [lora], [0.0], tmp_path / "b.safetensors", tell=said.append)
    merge_into(base, [lora], [1e-2], tmp_path / "c.safetensors", tell=said.append)
    assert said == []


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    base = _sd1(tmp_path / "base.safetensors")
    lora = read_lora(_lora(base, tmp_path / "one.safetensors"))
    tensors = safetensors.torch.load_file(base)
    key = "model.diffusion_model.middle_block.1.proj_in"
    for odd in ({f"{key}.scale_weight": torch.ones(1)}, {f"{key}.weight": tensors[f"{key}.weight"].to(torch.int8)}):
        (tmp_path / "q.safetensors").write_bytes(serialise(tensors | odd, {}))
        with pytest.raises(LoraTrainError, match="its weights are quantised .*proj_in"):
            merge_into(tmp_path / "q.safetensors", [lora], [1.0], tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()
