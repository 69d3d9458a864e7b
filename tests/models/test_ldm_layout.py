"""The original checkpoint layout, there and back, with the shipped base as the witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.demo.checkpoint import LDM_NORM_GROUPS, NAME, export_checkpoint, narrow
from lora_train.errors import LoraTrainError
from lora_train.models.ldm_keys import Translator, UnetShape, unet_pairs, vae_pairs
from lora_train.models.opening import open_model, recognise
from lora_train.tensors import read_tensors


@pytest.fixture(scope="module")
def checkpoint(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(tmp_path_factory.mktemp("checkpoint"))[0]


def _both(base: Path, checkpoint: Path) -> tuple[Any, Any]:
    """The base opened from its folder and from its checkpoint, with the parts that are a family's own."""
    return open_model(base), open_model(checkpoint)


def test_every_tensor_comes_back(base: Path, checkpoint: Path) -> None:
    """Read the exported checkpoint as a stranger's file and compare with the folder, tensor by tensor: the same
    bits, but for the VAE's query, which is scaled by a root and rounded to fp16 again."""
    ours, theirs = _both(base, checkpoint)
    for part in ("unet", "text_encoder"):
        expected, found = getattr(ours, part).state_dict(), getattr(theirs, part).state_dict()
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(value, found[name]), name
    expected, found = ours.vae.state_dict(), theirs.vae.state_dict()
    assert expected.keys() == found.keys()
    factor = LDM_NORM_GROUPS // ours.vae.config.norm_num_groups
    for name, value in expected.items():
        back = narrow(name, found[name], value, factor)
        assert torch.equal(value, back) or (".to_q." in name and torch.allclose(value, back, rtol=1e-3)), name


def test_the_widened_vae_is_the_same_function(base: Path, checkpoint: Path) -> None:
    ours, theirs = _both(base, checkpoint)
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for a, b in zip(ours.encode_pictures(pixels), theirs.encode_pictures(pixels)):
        assert torch.allclose(a, b, atol=2e-3)
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(ours.decode_latents(latents), theirs.decode_latents(latents), atol=2e-3)


def test_the_yaml_carries_what_tensors_do_not_show(base: Path, checkpoint: Path) -> None:
    ours, theirs = _both(base, checkpoint)
    assert theirs.prediction_type == ours.prediction_type
    assert theirs.native_resolution == ours.native_resolution == 128
    assert torch.allclose(theirs.snr(torch.arange(1000)), ours.snr(torch.arange(1000)))
    latents = torch.ones(1, 4, 2, 2)
    assert torch.allclose(ours.scale_latents(latents), theirs.scale_latents(latents))
    assert theirs.tokenizer("red star").input_ids == ours.tokenizer("red star").input_ids


def test_ldms_own_names(checkpoint: Path) -> None:
    """Names that LDM's code has (compared with a real WebUI by hand); 32 groups divide every norm."""
    tensors = read_tensors(checkpoint)
    for name in (
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight",
        "first_stage_model.decoder.up.3.block.0.norm1.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ):
        assert name in tensors
    norms = [v for n, v in tensors.items() if n.startswith("first_stage_model") and ".norm" in n]
    assert norms and all(len(value) % 32 == 0 for value in norms)


def test_exporting_twice_needs_permission(base: Path, checkpoint: Path) -> None:
    with pytest.raises(LoraTrainError, match="exists already"):
        export_checkpoint(checkpoint.parent)
    export_checkpoint(checkpoint.parent, overwrite=True)


def test_a_webui_lists_it_as_one_checkpoint(tmp_path: Path) -> None:
    """It lists every file with weights below its folder, those of an earlier export included."""
    old = tmp_path / f"{NAME}-text" / "model.safetensors"
    old.parent.mkdir()
    old.touch()
    written = export_checkpoint(tmp_path)
    listed = [path for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".ckpt")]
    assert listed == [tmp_path / f"{NAME}.safetensors"] == written[:1]


def test_translation_is_one_to_one_for_sd1() -> None:
    for pairs in (unet_pairs(UnetShape(2, (True, True, True, False))), vae_pairs(4, 2)):
        assert len({ours for _, ours in pairs}) == len({theirs for theirs, _ in pairs}) == len(pairs)
        translator = Translator(pairs)
        for theirs, ours in pairs:
            assert translator.to_diffusers(f"{theirs}.weight") == f"{ours}.weight"
            assert translator.to_ldm(f"{ours}.weight") == f"{theirs}.weight"


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, base: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("not a checkpoint")
    pickle = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"x": Path("/")}}, pickle)
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for path, message in (
        (text, "not a safetensors file"),
        (empty, "not a safetensors file"),
        (pickle, "more than weights"),
        (tmp_path / "nothing.ckpt", "no such file"),
        (tmp_path, "no model_index.json"),
        (base / "unet" / "diffusion_pytorch_model.safetensors", "not a Stable Diffusion checkpoint"),
    ):
        with pytest.raises(LoraTrainError, match=message):
            recognise(path)
