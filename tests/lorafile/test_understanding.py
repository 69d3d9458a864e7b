"""What others put into a LoRA file beside what we know: listed and left out, and the rest is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lora_train.cli import main
from lora_train.errors import LoraTrainError
from lora_train.lorafile.comparing import compare
from lora_train.lorafile.factors import Cut
from lora_train.lorafile.merging import merge
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.resizing import resize
from lora_train.lorafile.writing import serialise
from tests.lorafile.samples import lora_tensors

PROJ = "lora_unet_mid_block_attentions_0_proj_in"
PEFT = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
FLAT = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"


def _file(folder: Path, tensors: dict[str, torch.Tensor], name: str = "x", **metadata: str) -> Path:
    path = folder / f"{name}.safetensors"
    path.write_bytes(serialise(tensors, metadata))
    return path


def _pair(name: str, value: float, a: str = "lora_A.weight", b: str = "lora_B.weight") -> dict[str, torch.Tensor]:
    return {f"{name}.{a}": torch.full((4, 8), value), f"{name}.{b}": torch.ones(8, 4)}


FOREIGN = {
    "an unknown part": (f"{PROJ}.my_gate", "that is not a LoRA's"),
    "an unknown module": ("trigger_words_embedding", "that is not a LoRA's"),
    "an unknown prefix": ("lora_prior_unet_x.lora_up.weight", "that is not a LoRA's"),
    "the base's weight": (f"{PEFT}.base_layer.weight", "base_layer"),
    "a whole weight": ("unet.conv_out.weight", "modules_to_save"),
    "a whole bias": ("unet.conv_out.bias", "modules_to_save"),
    "an embedding": ("bundle_emb.sks.string_to_param.*", "embeddings folder"),
    "a part of another kind": (f"{PROJ}.hada_t1", "parts that no known kind of network has"),
    "alpha without matrices": ("lora_unet_conv_in.alpha", "parts that no known kind of network has"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_keys_are_listed_and_left_out(what: str, tmp_path: Path) -> None:
    key, reason = FOREIGN[what]
    file = read_lora(_file(tmp_path, lora_tensors() | {key: torch.ones(1)}))
    assert file.skipped == (key,)
    assert file.tensors.keys() == lora_tensors().keys()
    assert len(file.notes) == 1 and reason in file.notes[0] and key in file.notes[0]


def test_every_tool_uses_the_rest_and_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(_file(tmp_path, lora_tensors() | {"my_gate": torch.ones(1)}, ss_base_model_version="sd_v1"))
    out = str(tmp_path / "out.safetensors")
    for arguments in (
        ["convert", path, "--to", "kohya", "--output", out],
        ["resize", path, "--rank", "2", "--output", out],
        ["merge", path, path, "--output", out],
        ["compare", path, path],
    ):
        again = ["--overwrite"] if "--output" in arguments else []
        assert main(["file", *arguments, *again]) == 0
        assert "my_gate" in capsys.readouterr().err
    assert main(["file", "inspect", path]) == 0
    assert "left out  my_gate" in capsys.readouterr().out
    assert read_lora(Path(out)).notes == ()


def test_many_foreign_keys_do_not_flood_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = {f"gate_{number}": torch.ones(1) for number in range(500)}
    path = _file(tmp_path, lora_tensors() | foreign)
    assert main(["file", "inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 60 and "480 more keys" in shown
    assert main(["file", "inspect", "--json", str(path)]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["skipped"]) == 500


def test_of_several_adapters_one_is_used_and_the_others_are_named(tmp_path: Path) -> None:
    tensors = {
        **_pair(PEFT, 1.0, "lora_A.style.weight", "lora_B.style.weight"),
        **_pair(PEFT, 2.0, "lora_A.person.weight", "lora_B.person.weight"),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.style.weight": torch.ones(4, 8),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_B.style.weight": torch.ones(8, 4),
    }
    path = _file(tmp_path, tensors)
    file = read_lora(path)
    assert float(file.tensors[f"{FLAT}.lora_down.weight"][0, 0]) == 2.0  # "person" comes before "style"
    assert "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight" in file.tensors
    assert any("person, style" in note and "--adapter" in note for note in file.notes)
    chosen = read_lora(path, adapter="style")
    assert float(chosen.tensors[f"{FLAT}.lora_down.weight"][0, 0]) == 1.0
    with pytest.raises(LoraTrainError, match=r"no adapter called 'other' \(there: person, style\)"):
        read_lora(path, adapter="other")
    out = tmp_path / "out.safetensors"
    assert main(["file", "convert", str(path), "--adapter", "style", "--to", "kohya", "--output", str(out)]) == 0
    assert float(read_lora(out).tensors[f"{FLAT}.lora_down.weight"][0, 0]) == 1.0


@pytest.mark.parametrize("name", ["default", "default_0", "my style", "weights"])
def test_one_adapter_of_any_name_needs_no_word(name: str, tmp_path: Path) -> None:
    tensors = _pair(PEFT, 1.0, f"lora_A.{name}.weight", f"lora_B.{name}.weight")
    tensors[f"{PEFT}.lora_magnitude_vector.{name}.weight"] = torch.ones(8)
    file = read_lora(_file(tmp_path, tensors))
    assert file.tensors.keys() == {f"{FLAT}.{part}" for part in ("lora_down.weight", "lora_up.weight", "dora_scale")}
    assert file.notes == ()


def test_the_usual_adapter_goes_before_others(tmp_path: Path) -> None:
    tensors = _pair(PEFT, 1.0, "lora_A.a.weight", "lora_B.a.weight")
    for name in ("default", "default_0", ""):
        dot = f".{name}" if name else ""
        tensors |= _pair(PEFT, 5.0, f"lora_A{dot}.weight", f"lora_B{dot}.weight")
        assert float(read_lora(_file(tmp_path, tensors)).tensors[f"{FLAT}.lora_down.weight"][0, 0]) == 5.0
        tensors = {key: value for key, value in tensors.items() if ".a." in key}


def test_one_module_under_two_names_is_taken_whole_from_one(tmp_path: Path) -> None:
    """Never a matrix of the one with a matrix of the other."""
    tensors = {
        **_pair(FLAT, 1.0, "lora_down.weight", "lora_up.weight"),
        f"{FLAT}.alpha": torch.tensor(2.0),
        f"{PEFT}.lora_A.weight": torch.full((4, 8), 7.0),
        f"{PEFT}.lora_B.weight": torch.full((8, 4), 7.0),
    }
    file = read_lora(_file(tmp_path, tensors))
    assert float(file.tensors[f"{FLAT}.lora_down.weight"][0, 0]) == 1.0
    assert float(file.tensors[f"{FLAT}.lora_up.weight"][0, 0]) == 1.0
    assert set(file.skipped) == {f"{PEFT}.lora_A.weight", f"{PEFT}.lora_B.weight"}
    assert "second name" in file.notes[0]


def test_alpha_under_another_name_counts_for_its_module(tmp_path: Path) -> None:
    file = read_lora(_file(tmp_path, _pair(PEFT, 1.0) | {f"{FLAT}.alpha": torch.tensor(2.0)}))
    assert float(file.tensors[f"{FLAT}.alpha"]) == 2.0 and file.notes == ()


def _sparse(rows: list[int], columns: list[int], values: list[float], size: tuple[int, int]) -> dict[str, torch.Tensor]:
    return {
        f"{PROJ}.bias_indices": torch.tensor([rows, columns], dtype=torch.int16),
        f"{PROJ}.bias_values": torch.tensor(values).half(),
        f"{PROJ}.bias_size": torch.tensor(size, dtype=torch.int16),
    }


@pytest.mark.parametrize(("rows", "columns"), [([0, 1, 0], [2, 5, 7]), ([0, 3, 6], [1, 1, 2])])
def test_a_sparse_part_is_added_to_the_delta(rows: list[int], columns: list[int], tmp_path: Path) -> None:
    """LyCORIS' extraction: what the low rank does not hold; alpha is [rank] in half there."""
    values = [0.5, -0.25, 2.0]
    tensors = lora_tensors() | _sparse(rows, columns, values, (8, 8))
    tensors[f"{PROJ}.alpha"] = torch.tensor([4.0]).half()
    file = read_lora(_file(tmp_path, tensors))
    expected = tensors[f"{PROJ}.lora_up.weight"] @ tensors[f"{PROJ}.lora_down.weight"]
    for row, column, value in zip(rows, columns, values):
        expected[row, column] += value

    from lora_train.lorafile.deltas import deltas_for

    weight, bias = deltas_for(torch.zeros(8, 8), file.by_module()[PROJ])
    assert torch.allclose(weight, expected, atol=1e-6) and bias is None
    for made in (resize(file, Cut(8))[0], merge([file, file], [0.5, 0.5])):
        assert torch.allclose(deltas_for(torch.zeros(8, 8), made.by_module()[PROJ])[0], expected, atol=1e-5)
    assert compare(file, merge([file], [1.0])).cosine == pytest.approx(1.0)


@pytest.mark.parametrize(
    "broken",
    [([0], [8], [1.0], (8, 8)), ([-1], [0], [1.0], (8, 8)), ([0], [0], [1.0], (8, -8)), ([0], [0], [], (8, 8))],
)
def test_a_sparse_part_without_sense_is_named(
    broken: tuple[list[int], list[int], list[float], tuple[int, int]], tmp_path: Path
) -> None:
    from lora_train.lorafile.deltas import deltas_for

    path = _file(tmp_path, lora_tensors() | _sparse(*broken))
    with pytest.raises((ValueError, LoraTrainError), match=r"sparse matrix|bias_values"):
        deltas_for(torch.zeros(8, 8), read_lora(path).by_module()[PROJ])


def test_half_a_sparse_part_is_left_out(tmp_path: Path) -> None:
    part = f"{PROJ}.bias_values"
    assert read_lora(_file(tmp_path, lora_tensors() | {part: torch.ones(3)})).skipped == (part,)


def test_pefts_bias_is_scaled_by_alpha(tmp_path: Path) -> None:
    """peft: the output changes by scaling * (B A x + bias of B)."""
    tensors = _pair(PEFT, 1.0) | {f"{PEFT}.lora_B.bias": torch.arange(8.0)}
    told = {"unet.lora_alpha": 2, "unet.r": 4}
    for metadata, scale in (({}, 1.0), ({"lora_adapter_metadata": json.dumps(told)}, 0.5)):
        file = read_lora(_file(tmp_path, tensors, **metadata))
        assert torch.equal(file.tensors[f"{FLAT}.diff_b"], scale * torch.arange(8.0))
        half = merge([file, file], [1.0, -0.5])
        assert torch.equal(half.tensors[f"{FLAT}.diff_b"], 0.5 * scale * torch.arange(8.0))
        assert torch.equal(resize(file, Cut(2))[0].tensors[f"{FLAT}.diff_b"], scale * torch.arange(8.0))


def test_a_bias_of_zeros_hinders_no_layout(tmp_path: Path) -> None:
    """ComfyUI's LoraSave writes them; only a bias that changes something has no place in diffusers' layout."""
    for value, fits in ((0.0, True), (1.0, False)):
        path = _file(tmp_path, lora_tensors() | {f"{PROJ}.diff_b": torch.full((8,), value)})
        out = tmp_path / f"{value}.safetensors"
        assert (main(["file", "convert", str(path), "--to", "diffusers", "--output", str(out)]) == 0) is fits
    assert not any("diff_b" in key or "bias" in key for key in read_lora(tmp_path / "0.0.safetensors").tensors)


def test_a_file_of_nothing_but_foreign_keys_is_refused(tmp_path: Path) -> None:
    for tensors, message in (
        ({"trigger": torch.ones(1)}, "none of its 1 keys belongs to a LoRA"),
        ({f"{PROJ}.alpha": torch.ones(())}, "no network of a known kind"),
        ({"lora_unet_x.rescale": torch.ones(2)}, "no network of a known kind"),
    ):
        with pytest.raises(LoraTrainError, match=message):
            read_lora(_file(tmp_path, tensors))


def test_a_file_made_in_memory_has_no_notes(tmp_path: Path) -> None:
    assert LoraFile(tmp_path / "x", lora_tensors(), {}).notes == ()
