"""Every layout of the field comes to the same deltas."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.converting import WRITERS, diffusers_tensors, peft_adapters
from lora_train.lorafile.names import block_of, flat_name, path_of, split_name
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.writing import serialise, write_lora
from tests.lorafile.samples import lora_tensors
from tests.lorafile.witness import apart, deltas

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / f"{name}.json.gz").read_bytes()))
    return found


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(serialise(tensors, metadata or {}))
    return path


MID = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_"
TEXT = "lora_te_text_model_encoder_layers_3_self_attn_q_proj"

ATTENTION, LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.", "text_model.encoder.layers.3.self_attn."
AB, DOWN_UP = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")
DOT, BARE = ("lora.down.weight", "lora.up.weight"), ("down.weight", "up.weight")
LINEAR = ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
DEFAULT = ("lora_A.default.weight", "lora_B.default.weight")

SPELLINGS = {
    "diffusers": (f"unet.{ATTENTION}to_q", AB, f"{MID}to_q"),
    "diffusers 0.21": (f"unet.{ATTENTION}to_q", DOT, f"{MID}to_q"),
    "attention processor": (f"unet.{ATTENTION}processor.to_q_lora", BARE, f"{MID}to_q"),
    "processor's output": (f"unet.{ATTENTION}processor.to_out_lora", BARE, f"{MID}to_out_0"),
    "processor without unet": (f"{ATTENTION}processor.to_v_lora", BARE, f"{MID}to_v"),
    "peft": (f"base_model.model.{ATTENTION}to_q", AB, f"{MID}to_q"),
    "peft with the adapter's name": (f"base_model.model.{ATTENTION}to_q", DEFAULT, f"{MID}to_q"),
    "peft in unet": (f"unet.base_model.model.{ATTENTION}to_q", AB, f"{MID}to_q"),
    "text of diffusers": (f"text_encoder.{LAYER}q_proj", AB, TEXT),
    "text of transformers 5": ("text_encoder.encoder.layers.3.self_attn.q_proj", AB, TEXT),
    "text of diffusers 0.18": (f"text_encoder.{LAYER}q_proj", LINEAR, TEXT),
    "text of diffusers 0.17": (f"text_encoder.{LAYER}to_q_lora", BARE, TEXT),
    "peft's text": (f"base_model.model.{LAYER}q_proj", AB, TEXT),
    "OneTrainer's omi": (f"clip_l.{LAYER}q_proj", DOWN_UP, TEXT),
    "LyCORIS alone": (f"lycoris_{MID.removeprefix('lora_unet_')}to_q", DOWN_UP, f"{MID}to_q"),
    "kohya": (f"{MID}to_q", DOWN_UP, f"{MID}to_q"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_module(spelling: str, tmp_path: Path) -> None:
    module, (down, up), name = SPELLINGS[spelling]
    torch.manual_seed(0)
    a, b = torch.randn(4, 16), torch.randn(16, 4)
    path = _write(tmp_path / "x.safetensors", {f"{module}.{down}": a, f"{module}.{up}": b})
    found = read_lora(path)
    assert found.tensors.keys() == {f"{name}.lora_down.weight", f"{name}.lora_up.weight"}
    assert torch.equal(found.tensors[f"{name}.lora_down.weight"], a)
    assert torch.equal(found.tensors[f"{name}.lora_up.weight"], b)


def test_comfyuis_names_are_the_original_codes(tmp_path: Path) -> None:
    key = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"
    pair = {f"{key}.lora_down.weight": torch.ones(2, 768), f"{key}.lora_up.weight": torch.ones(8, 2)}
    found = read_lora(_write(tmp_path / "x.safetensors", pair))
    assert "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight" in found.tensors


def test_sdxl_in_both_block_namings_is_one(tmp_path: Path) -> None:
    """The names are diffusers' own translation of them (`_maybe_map_sgm_blocks_to_diffusers`)."""
    pairs = {
        "input_blocks_4_1_transformer_blocks_0_norm2": "down_blocks_1_attentions_0_transformer_blocks_0_norm2",
        "input_blocks_8_1_transformer_blocks_9_ff_net_2": "down_blocks_2_attentions_1_transformer_blocks_9_ff_net_2",
        "middle_block_1_transformer_blocks_5_attn1_to_q": "mid_block_attentions_0_transformer_blocks_5_attn1_to_q",
        "output_blocks_2_1_proj_in": "up_blocks_0_attentions_2_proj_in",
        "output_blocks_5_2_conv": "up_blocks_1_upsamplers_0_conv",
        "input_blocks_3_0_op": "down_blocks_0_downsamplers_0_conv",
        "output_blocks_8_0_skip_connection": "up_blocks_2_resnets_2_conv_shortcut",
    }
    sgm, ours = {}, {}
    for number, (theirs, name) in enumerate(pairs.items()):
        for part, shape in (("lora_down.weight", (2, 2048)), ("lora_up.weight", (8, 2))):
            sgm[f"lora_unet_{theirs}.{part}"] = ours[f"lora_unet_{name}.{part}"] = torch.full(shape, float(number))
    for tensors in (sgm, ours):
        tensors["lora_te2_text_model_encoder_layers_31_mlp_fc1.lora_down.weight"] = torch.ones(2, 8)
        tensors["lora_te2_text_model_encoder_layers_31_mlp_fc1.lora_up.weight"] = torch.ones(8, 2)
    a, b = (read_lora(_write(tmp_path / f"{n}.safetensors", t)) for n, t in (("a", sgm), ("b", ours)))
    assert a.tensors.keys() == sgm.keys()
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[key], b.tensors[key]) for key in sgm)


@pytest.mark.parametrize("name", ["sd1_lora", "sd1_locon", "sd2_lora", "sd2_locon", "sdxl_lora", "sdxl_locon"])
def test_kohyas_names_stay_and_go_to_diffusers_and_back(name: str, tmp_path: Path) -> None:
    """All of the golden lists' names; only alpha goes into the matrices."""
    tensors = {key: torch.ones(shape, dtype=torch.float16) for key, (_, shape) in golden(name).items()}
    for key in tensors:
        if key.endswith("alpha"):
            tensors[key] = torch.tensor(8.0 if "lora_te" in key else 4.0)
    file = read_lora(_write(tmp_path / "a.safetensors", tensors))
    assert file.tensors.keys() == tensors.keys()
    write = WRITERS["diffusers"]
    write(file, tmp_path / "b.safetensors", "keep", False)
    back = read_lora(tmp_path / "b.safetensors")
    assert back.layout == "diffusers"
    assert {k for k in tensors if not k.endswith("alpha")} == back.tensors.keys()
    for key in [k for k in back.tensors if k.endswith("up.weight")][::50]:
        scale = float(tensors[key.replace("lora_up.weight", "alpha")]) / tensors[key].shape[1]
        assert torch.equal(back.tensors[key].float(), tensors[key].float() * scale)


@pytest.mark.parametrize("name", ["sd1_locon", "sdxl_locon", "sd2_locon"])
def test_flat_names_can_be_read_back(name: str) -> None:
    for key in golden(name):
        module = key.split(".")[0]
        path = path_of(module)
        assert path is not None and flat_name(split_name(module)[0], path) == module
    assert path_of("lora_unet_something_else") is None


def test_blocks_are_the_original_codes() -> None:
    assert block_of("lora_unet_down_blocks_1_attentions_0_proj_in", False) == "IN04"
    assert block_of("lora_unet_up_blocks_3_attentions_2_proj_in", False) == "OUT11"
    assert block_of("lora_unet_mid_block_resnets_0_conv1", False) == "M00"
    assert block_of("lora_unet_output_blocks_8_0_out_layers_3", True) == "OUT08"
    assert block_of("lora_unet_conv_out", False) == "BASE"
    assert block_of("lora_te2_text_model_encoder_layers_0_mlp_fc1", True) == "TE2"


def test_embeddings_beside_a_network_are_left_out_and_told(tmp_path: Path) -> None:
    tensors = {**lora_tensors(), "bundle_emb.sks.string_to_param.*": torch.ones(1, 768)}
    found = read_lora(_write(tmp_path / "x.safetensors", tensors))
    assert found.skipped == ("bundle_emb.sks.string_to_param.*",)
    assert found.tensors.keys() == lora_tensors().keys()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_dtypes_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {key: value.to(dtype) for key, value in lora_tensors().items()}
    found = read_lora(_write(tmp_path / "x.safetensors", tensors))
    assert {value.dtype for value in found.tensors.values()} == {dtype}
    WRITERS["kohya"](found, tmp_path / "y.safetensors", "keep", False)
    again = read_lora(tmp_path / "y.safetensors").tensors
    assert all(torch.equal(again[key].float(), tensors[key].float()) for key in tensors)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_written_read_and_written_are_the_same_bytes_and_deltas(
    layout: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = lora_tensors(rank=3, dtype=dtype)  # alpha / rank is no power of two below
    tensors["lora_unet_mid_block_attentions_0_proj_in.alpha"] = torch.tensor(1.0)
    file = LoraFile(tmp_path / "x", tensors, {"ss_base_model_version": "sd_v1", "ss_x": "ü", "b": "1"})
    write = WRITERS[layout]
    one, two = (tmp_path / _called(name, layout) for name in ("one", "two"))
    write(file, one, "keep", False)
    first = read_lora(one)
    assert first.layout == layout
    assert apart(deltas(first.tensors), deltas(tensors)) < 1e-6
    write(first, two, "keep", False)
    for path in one.rglob("*") if layout == "peft" else [one]:
        if path.is_file():
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


def _called(name: str, layout: str) -> str:
    """peft's is a folder."""
    return name if layout == "peft" else f"{name}.safetensors"


@pytest.mark.parametrize("layout", WRITERS)
def test_nothing_is_overwritten_unasked(layout: str, tmp_path: Path) -> None:
    file = LoraFile(tmp_path / "x", lora_tensors(), {})
    path = tmp_path / _called("one", layout)
    WRITERS[layout](file, path, "keep", False)
    with pytest.raises(LoraTrainError, match="exists already"):
        WRITERS[layout](file, path, "keep", False)
    WRITERS[layout](file, path, "keep", True)


def test_pefts_configuration_tells_alphas(tmp_path: Path) -> None:
    """r, lora_alpha, alpha_pattern and rsLoRA as peft computes them (scaling = alpha / r, or alpha / sqrt(r))."""
    base = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1."
    tensors = {}
    for end, rank in (("to_q", 4), ("to_k", 4), ("to_v", 16)):
        tensors[f"{base}{end}.lora_A.weight"], tensors[f"{base}{end}.lora_B.weight"] = (
            torch.ones(rank, 8),
            torch.ones(8, rank),
        )
    _write(tmp_path / "adapter_model.safetensors", tensors)
    for rslora, expected in ((False, (2.0, 3.0, 2.0)), (True, (4.0, 6.0, 8.0))):
        config = {
            "r": 4,
            "lora_alpha": 2,
            "alpha_pattern": {"attn1.to_k": 3},
            "rank_pattern": {"to_v": 16},
            "use_rslora": rslora,
        }
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
            found = read_lora(path).tensors
            assert tuple(float(found[f"{MID}{end}.alpha"]) for end in ("to_q", "to_k", "to_v")) == expected


@pytest.mark.parametrize("where", ["configuration", "metadata"])
def test_an_alpha_of_0_in_pefts_configuration_is_no_effect_as_in_peft(where: str, tmp_path: Path) -> None:
    root = "unet.mid_block.attentions.0.transformer_blocks.0.attn1."
    tensors = {}
    for end in ("to_q", "to_k"):
        tensors[f"{root}{end}.lora_A.weight"], tensors[f"{root}{end}.lora_B.weight"] = (
            torch.ones(4, 8),
            torch.ones(8, 4),
        )
        tensors[f"{root}{end}.lora_B.bias"] = torch.ones(8)
    told = {"unet.lora_alpha": 0, "unet.r": 4, "unet.alpha_pattern": {"attn1.to_k": 8}}
    metadata = {"lora_adapter_metadata": json.dumps(told)} if where == "metadata" else {}
    path = _write(tmp_path / "adapter_model.safetensors", tensors, metadata)
    if where == "configuration":
        config = {"r": 4, "lora_alpha": 0, "alpha_pattern": {"attn1.to_k": 8}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    file = read_lora(path)
    still, moving = file.by_module()[f"{MID}to_q"], file.by_module()[f"{MID}to_k"]
    assert not still["lora_up.weight"].any() and not still["diff_b"].any() and float(still["alpha"]) == 4
    assert moving["lora_up.weight"].all() and float(moving["alpha"]) == 8
    (note,) = file.notes
    assert note.startswith(f"lora_alpha is 0 for 1 modules ({MID}to_q), with which peft does not apply them")


def test_diffusers_own_metadata_tells_alphas(tmp_path: Path) -> None:
    tensors = {}
    for root in (
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj",
    ):
        tensors[f"{root}.lora_A.weight"], tensors[f"{root}.lora_B.weight"] = torch.ones(4, 8), torch.ones(8, 4)
    told = {"unet.lora_alpha": 16, "unet.r": 4, "text_encoder.lora_alpha": 2, "text_encoder.r": 4}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(told)}
    found = read_lora(_write(tmp_path / "x.safetensors", tensors, metadata)).tensors
    assert float(found[f"{MID}to_q.alpha"]) == 16 and float(found[f"{TEXT}.alpha"]) == 2


def test_magnitudes_are_shaped_as_each_layout_has_them(tmp_path: Path) -> None:
    tensors = lora_tensors()
    for name in {key.split(".")[0] for key in tensors}:
        up = tensors[f"{name}.lora_up.weight"]
        tensors[f"{name}.dora_scale"] = torch.arange(up.shape[0]).float().reshape(-1, *[1] * (up.ndim - 1))
    file = LoraFile(tmp_path / "x", tensors, {})
    theirs = diffusers_tensors(file)
    assert theirs["unet.mid_block.attentions.0.proj_in.lora_magnitude_vector.weight"].shape == (8,)
    assert theirs["unet.up_blocks.3.resnets.2.conv1.lora_magnitude_vector.weight"].shape == (1, 16, 1, 1)
    assert all(config["use_dora"] for _, config in peft_adapters(file).values())
    WRITERS["peft"](file, tmp_path / "one", "keep", False)
    back = read_lora(tmp_path / "one").tensors
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_what_a_layout_cannot_hold_is_named(tmp_path: Path) -> None:
    loha = {
        f"lora_unet_conv_in.{part}": torch.ones(2, 2) for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    }
    for tensors, message in (
        (loha, "lora_unet_conv_in"),
        (
            {
                **lora_tensors(),
                "lora_unet_odd.lora_down.weight": torch.ones(2, 2),
                "lora_unet_odd.lora_up.weight": torch.ones(2, 2),
            },
            "lora_unet_odd",
        ),
        ({**lora_tensors(), "lora_unet_mid_block_attentions_0_proj_in.dora_scale": torch.ones(1, 8, 1)}, "by columns"),
    ):
        with pytest.raises(LoraTrainError, match=message):
            WRITERS["diffusers"](LoraFile(tmp_path / "x", tensors, {}), tmp_path / "y", "keep", False)
    assert not (tmp_path / "y").exists()


def test_a_tucker_core_is_contracted(tmp_path: Path) -> None:
    """LyCORIS' `rebuild_tucker`, written out as loops over the kernel."""
    torch.manual_seed(0)
    name = "lora_unet_up_blocks_3_resnets_2_conv1"
    up, mid, down = torch.randn(6, 3, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(3, 5, 1, 1)
    parts = {f"{name}.lora_up.weight": up, f"{name}.lora_mid.weight": mid, f"{name}.lora_down.weight": down}
    tensors = diffusers_tensors(LoraFile(tmp_path / "x", parts, {}))
    a, b = (
        tensors["unet.up_blocks.3.resnets.2.conv1.lora_A.weight"],
        tensors["unet.up_blocks.3.resnets.2.conv1.lora_B.weight"],
    )
    for y in range(3):
        for x in range(3):
            expected = up[:, :, 0, 0] @ mid[:, :, y, x] @ down[:, :, 0, 0]
            assert torch.allclose(b[:, :, 0, 0] @ a[:, :, y, x], expected, atol=1e-5)


def test_kohyas_files_of_one_kind_with_missing_alpha(tmp_path: Path) -> None:
    tensors = {key: value for key, value in lora_tensors().items() if not key.endswith("alpha")}
    path = tmp_path / "x.safetensors"
    write_lora(path, tensors, {}, "fp32", False)
    assert read_lora(path).tensors.keys() == tensors.keys()
    assert all(config["lora_alpha"] == 4 for _, config in peft_adapters(read_lora(path)).values())
