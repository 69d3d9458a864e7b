"""SD 2.x and SDXL of random weights: files, text, prediction, names; diffusers is the witness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.errors import LoraTrainError
from lora_train.models.base import Frame
from lora_train.models.opening import look, native_resolution, open_model, recognise
from lora_train.models.stable_diffusion import CLASSES
from tests.models.tiny import Tiny, checkpoint_tensors, tiny_sd2, tiny_sdxl, write_checkpoint, write_folder

MAKERS: dict[str, Callable[[], Tiny]] = {"sd2": tiny_sd2, "sdxl": tiny_sdxl}
CAPTIONS = ["red star on blue", "", "a red red red star! on blue"]


@pytest.fixture(scope="module", params=list(MAKERS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Family, the modules, and the same model as a folder and as one file."""
    model = MAKERS[request.param]()
    root = tmp_path_factory.mktemp(request.param)
    return request.param, model, write_folder(model, root / "folder"), write_checkpoint(model, root / "one.safetensors")


def test_both_layouts_are_recognised(made: Any) -> None:
    family, _, folder, file = made
    assert recognise(folder) == recognise(file) == family
    assert type(open_model(file)) is CLASSES[family]


def test_folder_and_file_give_the_same_weights(made: Any) -> None:
    _, model, folder, file = made
    for opened in (open_model(folder), open_model(file)):
        parts = [(opened.unet, model.unet), (opened.vae, model.vae)]  # type: ignore[attr-defined]
        parts += list(zip(opened.text_encoders, model.text_encoders))  # type: ignore[attr-defined]
        for found, expected in parts:
            values = {n: v for n, v in expected.state_dict().items() if "position_ids" not in n}
            assert {n for n in found.state_dict() if "position_ids" not in n} == set(values)
            assert all(torch.equal(found.state_dict()[n], value) for n, value in values.items())


def test_pickles_and_split_folders_give_the_same_weights(tmp_path: Path) -> None:
    tiny = tiny_sdxl()
    file = write_checkpoint(tiny, tmp_path / "one.safetensors")  # for the tokenizer beside it
    pickle = file.with_name("two.ckpt")
    torch.save({"state_dict": checkpoint_tensors(tiny), "global_step": 1}, pickle)
    folder = write_folder(tiny, tmp_path / "folder")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    tiny.unet.save_pretrained(folder / "unet", max_shard_size="3MB")
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    for path in (pickle, folder):
        state = open_model(path).unet.state_dict()  # type: ignore[attr-defined]
        assert all(torch.equal(state[name], value) for name, value in tiny.unet.state_dict().items())
    next((folder / "unet").glob("*-00002-of-*")).unlink()
    with pytest.raises(LoraTrainError, match="no weights"):
        recognise(folder)


def test_a_projection_that_is_not_wanted_changes_nothing(tmp_path: Path) -> None:
    """Some folders hold the first text encoder with its projection."""
    from safetensors.torch import save_file

    tiny = tiny_sd2()
    folder = write_folder(tiny, tmp_path / "folder")
    expected = open_model(folder).encode_text(CAPTIONS)["states"]
    more = tiny.text_encoders[0].state_dict() | {"text_projection.weight": torch.randn(64, 64)}
    save_file({name: value.contiguous() for name, value in more.items()}, folder / "text_encoder" / "model.safetensors")
    assert torch.equal(open_model(folder).encode_text(CAPTIONS)["states"], expected)


def test_folder_and_file_have_the_same_configuration(made: Any) -> None:
    """What the file does not say is known of the family: heads, activation, sizes, scale."""
    _, _, folder, file = made
    one: Any = open_model(folder)
    other: Any = open_model(file)
    for part in ("unet", "vae"):
        a, b = dict(getattr(one, part).config), dict(getattr(other, part).config)
        for name in a:
            if not name.startswith("_") and name != "sample_size":
                x, y = (tuple(v) if isinstance(v, list) else v for v in (a[name], b[name]))
                assert x == y, (part, name)
    assert one.native_resolution == other.native_resolution == native_resolution(folder) == native_resolution(file)
    assert one.scale_latents(torch.ones(1)) == other.scale_latents(torch.ones(1))
    for a, b in zip(one.text_encoders, other.text_encoders):
        for name in ("hidden_act", "num_attention_heads", "num_hidden_layers", "projection_dim", "eos_token_id"):
            assert getattr(a.config, name) == getattr(b.config, name), name
    assert (one.prediction_type, one.version) == (other.prediction_type, other.version)


def test_text_and_prediction_are_the_same_from_both(made: Any) -> None:
    _, _, folder, file = made
    one, other = open_model(folder), open_model(file)
    captions = CAPTIONS[:2]  # a tokenizer whose pad token is "!" reads that word otherwise
    a, b = one.encode_text(captions), other.encode_text(captions)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)
    x, t, frames = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), [Frame.whole(64, 64)] * 2
    with torch.no_grad():
        found = [m.predict(x, t, {**c, **m.extra_inputs(frames)}) for m, c in ((one, a), (other, b))]
    assert torch.allclose(*found, atol=1e-4)


def test_sdxl_guides_from_zeros_where_the_negative_prompt_is_empty(tmp_path: Path) -> None:
    model = open_model(write_folder(tiny_sdxl(), tmp_path / "folder"))
    encoded = model.encode_text(["", "blue"])
    taken = model.unconditional(["", "blue"], encoded)
    for name in ("states", "pooled"):
        assert taken[name][0].abs().max() == 0 < encoded[name][0].abs().max()
        assert torch.equal(taken[name][1], encoded[name][1])


def test_the_vae_is_never_run_in_half_precision(tmp_path: Path) -> None:
    """SDXL's overflows in fp16; under autocast its convolutions would be."""
    model: Any = open_model(write_folder(tiny_sdxl(), tmp_path / "folder"), keep_dtype=True)
    model.to(torch.device("cpu"), torch.bfloat16)
    assert (model.unet.dtype, model.vae.dtype) == (torch.bfloat16, torch.float32)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    plain = model.encode_pictures(pixels)[0]
    latents = torch.randn(1, 4, 8, 8)
    picture = model.decode_latents(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode_pictures(pixels)[0], plain)
        assert torch.equal(model.decode_latents(latents), picture)


def test_pictures_are_encoded_before_the_rest_is_moved(tmp_path: Path) -> None:
    model: Any = open_model(write_folder(tiny_sdxl(), tmp_path / "folder"), keep_dtype=True)
    pixels = torch.rand(9, 3, 512, 520, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model.vae_to(torch.device("cpu"))
    mean, std = model.encode_pictures(pixels)
    one = model.encode_pictures(pixels[8:])
    assert mean.shape == std.shape == (9, 4, 64, 65)
    assert torch.allclose(mean[8:], one[0], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_files_dtype_is_kept_when_asked(dtype: torch.dtype, tmp_path: Path) -> None:
    tiny = tiny_sd2()
    for part in (tiny.unet, tiny.vae, *tiny.text_encoders):
        part.to(dtype)
    file = write_checkpoint(tiny, tmp_path / "one.safetensors")
    kept: Any = open_model(file, keep_dtype=True)
    ready: Any = open_model(file)
    assert kept.unet.dtype == kept.text_encoder.dtype == dtype
    assert ready.unet.dtype == ready.text_encoder.dtype == torch.float32
    assert kept.vae_hash == ready.vae_hash


def test_changing_an_opened_model_leaves_its_file_alone(tmp_path: Path) -> None:
    """Weights are memory-mapped; what is done to them must not reach the disk."""
    file = write_checkpoint(tiny_sd2(), tmp_path / "one.safetensors")
    before = file.read_bytes()
    model: Any = open_model(file, keep_dtype=True)
    with torch.no_grad():
        for value in model.unet.parameters():
            value.add_(1)
    del model
    assert file.read_bytes() == before


# what is no base model of these families


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (tiny_sdxl, ("conditioner.embedders.0.", None), "has no text encoder"),
        (tiny_sdxl, ("conditioner.embedders.1.", None), "has no text encoder"),
        (tiny_sdxl, ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."), "refiner"),
        (tiny_sdxl, ("conditioner.embedders.1.model.", "cond_stage_model.model."), "unCLIP"),
        (tiny_sd2, ("first_stage_model.", None), "has no VAE"),
    ],
)
def test_other_checkpoints_are_refused(make: Any, change: Any, message: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for name, value in checkpoint_tensors(make()).items():
        if name.startswith(change[0]):
            if change[1] is None:
                continue
            name = change[1] + name.removeprefix(change[0])
        tensors[name] = value
    save_file(tensors, tmp_path / "one.safetensors")
    with pytest.raises(LoraTrainError, match=message):
        recognise(tmp_path / "one.safetensors")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.diffusion_model.middle_block.1.transformer_blocks.1.attn1.to_q.weight", "lacks 1 weights"),
        ("conditioner.embedders.1.model.text_projection", "lacks 1 weights"),
        ("conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_bias", "lacks 3 weights"),
        ("model.diffusion_model.label_emb.0.2.bias", "lacks 1 weights"),
    ],
)
def test_an_incomplete_checkpoint_says_what_it_lacks(name: str, message: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = checkpoint_tensors(tiny_sdxl())
    del tensors[name]
    write_checkpoint(tiny_sdxl(), tmp_path / "one.safetensors")
    save_file(tensors, tmp_path / "one.safetensors")
    with pytest.raises(LoraTrainError, match=message):
        open_model(tmp_path / "one.safetensors")


def test_a_folder_with_half_a_file_is_seen_without_loading(tmp_path: Path) -> None:
    folder = write_folder(tiny_sdxl(), tmp_path / "folder")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(LoraTrainError, match="cut off or damaged"):
        look(folder)


# blocks


def test_blocks_have_the_names_of_the_block_weight_extensions(tmp_path: Path) -> None:
    for make, blocks in ((tiny_sd2, 12), (tiny_sdxl, 9)):
        model = open_model(write_folder(make(), tmp_path / f"{blocks}"))
        found = {model.block_of(name) for name in model.module_names(convolutions=True)}
        expected = {f"{side}{i:02d}" for side in ("IN", "OUT") for i in range(blocks)} | {"M00", "BASE"}
        assert found == expected - {"IN00"}  # the first convolution is no target
    assert model.block_of("lora_unet_input_blocks_4_1_proj_in") == "IN04"
    assert model.block_of("lora_unet_middle_block_1_proj_in") == "M00"
    assert model.block_of("lora_te2_text_model_encoder_layers_0_mlp_fc1") == "BASE"
