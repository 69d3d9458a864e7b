"""What a precision cannot hold: single numbers stay fp32, small and large values stay wider, and it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_train.cli import main
from lora_train.errors import LoraTrainError
from lora_train.lorafile import writing
from lora_train.lorafile.converting import diffusers_tensors, peft_adapters, write_diffusers
from lora_train.lorafile.factors import Cut
from lora_train.lorafile.merging import merge
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.resizing import resize
from lora_train.lorafile.writing import DTYPES, write_lora
from tests.lorafile.samples import lora_tensors


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("alpha", [1e-8, 70_000.0, 0.0, 1.0])
def test_alpha_is_fp32_in_every_precision(tmp_path: Path, precision: str, alpha: float) -> None:
    tensors = {"lora_te_x.oft_blocks": torch.ones(1, 2, 2), "lora_te_x.alpha": torch.tensor(alpha)}
    write_lora(tmp_path / "a.safetensors", tensors, {}, precision, False)
    found = load_file(tmp_path / "a.safetensors")
    assert found["lora_te_x.alpha"].dtype == torch.float32
    assert float(found["lora_te_x.alpha"]) == pytest.approx(alpha)
    assert found["lora_te_x.oft_blocks"].dtype == DTYPES[precision]


def test_what_a_precision_would_make_zero_keeps_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = lora_tensors()
    down = [name for name in tensors if name.endswith("lora_down.weight")]
    tiny = tensors | {name: tensors[name] * 1e-9 for name in down}
    write_lora(tmp_path / "tiny.safetensors", tiny, {}, "fp32", False)
    arguments = ["file", "convert", str(tmp_path / "tiny.safetensors"), "--to", "kohya", "--precision", "fp16"]
    assert main([*arguments, "--output", str(tmp_path / "a.safetensors")]) == 0
    said = capsys.readouterr().err
    assert f"note: 6 of {len(tiny)} tensors" in said and "fp16 would turn 6 of them into zeros" in said
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tiny[name]) for name in down)
    assert found[down[0].replace("down", "up")].dtype == torch.float16


def test_a_few_small_values_among_large_ones_are_not_worth_a_word(tmp_path: Path) -> None:
    tensors = lora_tensors()
    for value in tensors.values():
        if value.ndim:
            value[0, 0] = 1e-9
    assert write_lora(tmp_path / "a.safetensors", tensors, {}, "fp16", False) == ()
    assert load_file(tmp_path / "a.safetensors")[next(iter(tensors))].dtype == torch.float16


def test_nothing_that_is_not_finite_is_written(tmp_path: Path) -> None:
    large = lora_tensors() | {"lora_te_x.diff": torch.tensor([1e5, 1.0])}
    notes = write_lora(tmp_path / "a.safetensors", large, {}, "fp16", False)
    assert "fp16 cannot hold their values (lora_te_x.diff" in notes[0]
    assert torch.equal(load_file(tmp_path / "a.safetensors")["lora_te_x.diff"], large["lora_te_x.diff"])
    for bad in (float("nan"), float("inf")):
        with pytest.raises(LoraTrainError, match="1 tensors have values that are not finite.*lora_te_x.diff"):
            broken = large | {"lora_te_x.diff": torch.tensor([bad])}
            write_lora(tmp_path / "b.safetensors", broken, {}, "fp32", False)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("missing", [True, False])
def test_an_alpha_of_0_is_the_rank_in_every_layout(missing: bool) -> None:
    tensors = lora_tensors(rank=4)
    zero = {k: v * 0 if k.endswith("alpha") else v for k, v in tensors.items() if not (missing and k.endswith("alpha"))}
    rank = {k: v * 0 + 4.0 if k.endswith("alpha") else v for k, v in tensors.items()}
    one, other = (LoraFile(Path("a"), tensors, {}) for tensors in (zero, rank))
    made, expected = diffusers_tensors(one), diffusers_tensors(other)
    assert made.keys() == expected.keys() and all(torch.equal(made[k], expected[k]) for k in made)
    assert any(bool(value.any()) for key, value in made.items() if "lora_B" in key)
    for component, (_, config) in peft_adapters(one).items():
        assert config == peft_adapters(other)[component][1] and config["lora_alpha"] == 4.0


def test_no_tool_writes_8_bits_of_its_own(tmp_path: Path) -> None:
    """A file of 8 bits is read; products and sums of it would be rounded away in as many."""
    tensors = lora_tensors()
    eight = {k: v.to(torch.float8_e4m3fn) if v.ndim else v for k, v in tensors.items()}
    write_lora(tmp_path / "a.safetensors", eight, {}, "keep", False)
    file = read_lora(tmp_path / "a.safetensors")
    plain = LoraFile(file.path, {k: v.float() for k, v in file.tensors.items()}, {})
    for made, wanted in (
        (resize(file, Cut(2))[0], resize(plain, Cut(2))[0]),
        (merge([file, file], [0.3, 0.5]), merge([plain, plain], [0.3, 0.5])),
    ):
        assert {value.dtype.itemsize for value in made.tensors.values()} <= {2, 4}
        for name, parts in made.by_module().items():
            delta, expected = (
                p["lora_up.weight"].float().flatten(1) @ p["lora_down.weight"].float().flatten(1) * p["alpha"].float()
                for p in (parts, wanted.by_module()[name])
            )
            assert torch.allclose(delta, expected, atol=0.02 * float(expected.abs().max()))
    write_diffusers(file, tmp_path / "d.safetensors")
    again = read_lora(tmp_path / "d.safetensors").by_module()["lora_te_text_model_encoder_layers_0_self_attn_q_proj"]
    assert torch.isfinite(again["lora_up.weight"].float()).all()


def test_metadata_over_the_formats_limit_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_HEADER", 4000)
    metadata = {"ss_tag_frequency": json.dumps({"a": "x" * 3000}), "ss_long": "y" * 2000, "ss_seed": "1"}
    tensors = {"lora_te_x.diff": torch.ones(2)}
    notes = write_lora(tmp_path / "a.safetensors", tensors, metadata, "fp16", False)
    assert len(notes) == 1 and "ss_tag_frequency" in notes[0]
    assert read_lora(tmp_path / "a.safetensors").metadata.keys() >= {"ss_long", "ss_seed"}


def test_editing_over_the_formats_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_lora(path, {"lora_te_x.diff": torch.ones(2)}, {}, "fp16", False)
    before = path.read_bytes()
    monkeypatch.setattr(writing, "MAX_HEADER", 1000)
    assert main(["file", "metadata", str(path), "--set", "a=" + "x" * 1000, "--overwrite"]) != 0
    assert path.read_bytes() == before
