"""SD 2.x and SDXL of random weights: files, text, prediction, names; diffusers is the witness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.models.base import Frame
from lora_train.models.opening import FAMILIES, native_resolution, open_model, recognise, refusals
from lora_train.models.prediction import Assumed
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
    assert type(open_model(file)) is FAMILIES[family]()


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


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_sd2_text_equals_diffusers(clip_skip: int, tmp_path: Path) -> None:
    pipeline, model = _pipeline(write_folder(tiny_sd2(), tmp_path / "folder"))
    if clip_skip > 1 and not hasattr(model.text_encoder, "text_model"):
        pytest.skip("diffusers' clip skip does not work with transformers 5")
    # diffusers counts skipped layers, we count from 1
    skip = None if clip_skip == 1 else clip_skip - 1
    expected = pipeline.encode_prompt(CAPTIONS, "cpu", 1, False, clip_skip=skip)[0]
    assert torch.allclose(model.encode_text(CAPTIONS, clip_skip)["states"], expected, atol=1e-5)


def test_sdxl_text_equals_diffusers(tmp_path: Path) -> None:
    pipeline, model = _pipeline(write_folder(tiny_sdxl(), tmp_path / "folder"))
    states, _, pooled, _ = pipeline.encode_prompt(CAPTIONS, device="cpu", do_classifier_free_guidance=False)
    for clip_skip in (1, 2):
        found = model.encode_text(CAPTIONS, clip_skip)
        assert torch.allclose(found["states"], states, atol=1e-5)
        assert torch.allclose(found["pooled"], pooled, atol=1e-5)


def test_sdxl_sizes_and_prediction_equal_diffusers(tmp_path: Path) -> None:
    pipeline, model = _pipeline(write_folder(tiny_sdxl(), tmp_path / "folder"))
    frame = Frame(original=(1200, 800), crop=(33, 7), target=(96, 64))
    expected = pipeline._get_add_time_ids((800, 1200), (7, 33), (64, 96), torch.float32, 96)
    extra = model.extra_inputs([frame])
    assert torch.equal(extra["time_ids"], expected)
    conditioning = model.encode_text(CAPTIONS[:1])
    x, t = torch.randn(1, 4, 8, 12), torch.tensor([500])
    with torch.no_grad():
        found = model.predict(x, t, {**conditioning, **extra})
        theirs = pipeline.unet(
            x,
            t,
            conditioning["states"],
            added_cond_kwargs={"text_embeds": conditioning["pooled"], "time_ids": expected},
        ).sample
        other = model.predict(x, t, {**conditioning, **model.extra_inputs([Frame.whole(96, 64)])})
    assert torch.equal(found, theirs)
    assert not torch.allclose(found, other)


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


def _pipeline(folder: Path) -> tuple[Any, Any]:
    """diffusers' pipeline on a folder, and ours on the same."""
    try:
        from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"these pipelines do not import with this transformers ({error})")
    from transformers import CLIPTokenizer

    model: Any = open_model(folder)
    parts = {
        "vae": model.vae,
        "unet": model.unet,
        "text_encoder": model.text_encoder,
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "scheduler": model.sampler(2),
    }
    pipeline: DiffusionPipeline
    if len(model.text_encoders) > 1:
        second = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
        pipeline = StableDiffusionXLPipeline(**parts, text_encoder_2=model.text_encoder_2, tokenizer_2=second)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    return pipeline, model


# prediction type


@pytest.mark.parametrize(
    ("make", "name", "metadata", "keys", "expected"),
    [
        (tiny_sd2, "v2-1_512-ema-pruned", {}, (), ("epsilon", "sd_v2", 512)),
        (tiny_sd2, "v2-1_768-ema-pruned", {}, (), ("v_prediction", "sd_v2_v", 768)),
        (tiny_sd2, "mine", {}, (), ("v_prediction", "sd_v2_v", 768)),
        (tiny_sd2, "768", {"modelspec.prediction_type": "epsilon"}, (), ("epsilon", "sd_v2", 512)),
        (tiny_sd2, "mine", {"modelspec.architecture": "stable-diffusion-v2-512"}, (), ("epsilon", "sd_v2", 512)),
        (tiny_sdxl, "mine", {}, (), ("epsilon", "sdxl_base_v1-0", 1024)),
        (tiny_sdxl, "mine", {"modelspec.prediction_type": "v"}, (), ("v_prediction", "sdxl_base_v1-0", 1024)),
        (tiny_sdxl, "mine", {"modelspec.predict_key": "v"}, (), ("v_prediction", "sdxl_base_v1-0", 1024)),
        (tiny_sdxl, "mine", {}, ("v_pred",), ("v_prediction", "sdxl_base_v1-0", 1024)),
    ],
)
def test_prediction_types(
    make: Any, name: str, metadata: Any, keys: Any, expected: tuple[str, str, int], tmp_path: Path
) -> None:
    file = write_checkpoint(make(), tmp_path / f"{name}.safetensors", metadata, keys)
    model = open_model(file)
    assert native_resolution(file) == expected[2]
    assert (model.prediction_type, model.version, model.native_resolution) == expected
    assert model.zero_terminal_snr is False
    assert bool(model.notes) == (expected[0] == "v_prediction" or name == "v2-1_512-ema-pruned")


def test_noobais_keys_mean_v_and_zero_terminal_snr(tmp_path: Path) -> None:
    model = open_model(write_checkpoint(tiny_sdxl(), tmp_path / "noob.safetensors", keys=("v_pred", "ztsnr")))
    assert model.prediction_type == "v_prediction" and model.zero_terminal_snr
    assert "v_pred" in model.notes[0]
    assert float(model.snr(torch.tensor([999]))) == 0


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"parameterization": "v"}, "v_prediction"),
        ({}, "epsilon"),
        ({"denoiser_config": {"params": {"scaling_config": {"target": "sgm.x.VScaling"}}}}, "v_prediction"),
        ({"denoiser_config": {"params": {"scaling_config": {"target": "sgm.x.EpsScaling"}}}}, "epsilon"),
    ],
)
def test_the_yaml_says_what_is_predicted(params: dict[str, Any], expected: str, tmp_path: Path) -> None:
    file = write_checkpoint(tiny_sdxl(), tmp_path / "one.safetensors")
    file.with_suffix(".yaml").write_text(json.dumps({"model": {"params": {"timesteps": 1000} | params}}))
    assert open_model(file).prediction_type == expected


def test_the_64_in_stabilitys_yaml_for_768_pixels_means_nothing(tmp_path: Path) -> None:
    file = write_checkpoint(tiny_sd2(), tmp_path / "one.safetensors")
    for said, expected in (({"parameterization": "v", "image_size": 64}, 768), ({"image_size": 16}, 128)):
        file.with_suffix(".yaml").write_text(json.dumps({"model": {"params": said}}))
        assert open_model(file).native_resolution == native_resolution(file) == expected


def test_a_person_has_the_last_word(tmp_path: Path) -> None:
    tiny = tiny_sd2()
    file, folder = write_checkpoint(tiny, tmp_path / "768.safetensors"), write_folder(tiny, tmp_path / "folder")
    for path in (file, folder):
        model = open_model(path, assumed=Assumed(v_parameterization=False))
        assert model.prediction_type == "epsilon" and model.architecture == "stable-diffusion-v2-512/lora"
        assert "as model.v_parameterization says" in model.notes[0]


def test_a_folder_says_it_itself(tmp_path: Path) -> None:
    model = open_model(write_folder(tiny_sdxl("v_prediction", zero_terminal_snr=True), tmp_path / "folder"))
    assert model.prediction_type == "v_prediction" and model.zero_terminal_snr and model.notes == ()


# options that mean nothing


def _config(**groups: Any) -> RunConfig:
    return RunConfig.from_dict(groups)


@pytest.mark.parametrize(
    ("make", "config", "where"),
    [
        (tiny_sdxl, {"model": {"clip_skip": 3}}, "model.clip_skip"),
        (tiny_sdxl, {"train": {"zero_terminal_snr": True}}, "train.zero_terminal_snr"),
        (tiny_sd2, {"train": {"text_encoder_lr1": 1e-5}}, "train.text_encoder_lr1"),
        (tiny_sd2, {"model": {"v_parameterization": False}, "train": {"zero_terminal_snr": True}}, "train.zero_"),
    ],
)
def test_options_that_mean_nothing_are_refused(make: Any, config: Any, where: str, tmp_path: Path) -> None:
    found = refusals(write_checkpoint(make(), tmp_path / "one.safetensors"), _config(**config))
    assert [problem.where.startswith(where) for problem in found] == [True]
    assert found[0].fix


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (tiny_sdxl, {"model": {"clip_skip": 2}, "train": {"text_encoder_lr1": 1e-5, "text_encoder_lr2": 0.0}}),
        (tiny_sdxl, {"model": {"v_parameterization": True}, "train": {"zero_terminal_snr": True}}),
        (tiny_sdxl, {"model": {"v_parameterization": False}}),
        (tiny_sd2, {"model": {"clip_skip": 2}, "train": {"zero_terminal_snr": True}}),
    ],
)
def test_options_that_mean_something_are_not(make: Any, config: Any, tmp_path: Path) -> None:
    file = write_checkpoint(make(), tmp_path / "one.safetensors", keys=("v_pred", "ztsnr"))
    assert refusals(file, _config(**config)) == []


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


# the text as OpenCLIP computes it


class OpenClipText(torch.nn.Module):
    """OpenCLIP's text tower (`transformer.py`): fused attention, a projection from the right."""

    def __init__(self, tensors: dict[str, torch.Tensor], heads: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.layers = []
        width = tensors["ln_final.weight"].shape[0]
        for number in range(sum(name.endswith("in_proj_bias") for name in tensors)):
            layer = torch.nn.ModuleDict({"attn": torch.nn.MultiheadAttention(width, heads, batch_first=True)})
            inner = tensors[f"transformer.resblocks.{number}.mlp.c_fc.bias"].shape[0]
            layer["mlp"] = torch.nn.ModuleDict(
                {"c_fc": torch.nn.Linear(width, inner), "c_proj": torch.nn.Linear(inner, width)}
            )
            layer["ln_1"], layer["ln_2"] = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
            start = f"transformer.resblocks.{number}."
            layer.load_state_dict({n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)})
            self.layers.append(layer)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """The final norm."""
        return torch.nn.functional.layer_norm(
            x, x.shape[-1:], self.tensors["ln_final.weight"], self.tensors["ln_final.bias"]
        )

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States before the last layer, and the pooled state of the end token, projected."""
        x = self.tensors["token_embedding.weight"][tokens] + self.tensors["positional_embedding"]
        mask = torch.full((77, 77), float("-inf")).triu(1)
        for layer in self.layers:
            before = x
            y = layer["ln_1"](x)
            x = x + layer["attn"](y, y, y, need_weights=False, attn_mask=mask)[0]
            x = x + layer["mlp"]["c_proj"](torch.nn.functional.gelu(layer["mlp"]["c_fc"](layer["ln_2"](x))))
        at_end = self.normed(x)[torch.arange(len(tokens)), tokens.argmax(-1)]
        return before, at_end @ self.tensors["text_projection"]


def _ids(model: Any, number: int) -> torch.Tensor:
    """Tokens by hand: begin, words, end, then zeros."""
    rows = [model.tokenizers[number](caption, add_special_tokens=False).input_ids for caption in CAPTIONS]
    return torch.tensor([[641, *row, 642] + [0] * (75 - len(row)) for row in rows])


def test_sd2_text_is_the_last_but_one_layer_through_the_final_norm(tmp_path: Path) -> None:
    model: Any = open_model(write_checkpoint(tiny_sd2(), tmp_path / "one.safetensors"))
    prefix = "cond_stage_model.model."
    tensors = {n.removeprefix(prefix): v for n, v in checkpoint_tensors(tiny_sd2()).items() if n.startswith(prefix)}
    theirs = OpenClipText(tensors, heads=1)
    assert len(theirs.layers) == 4
    expected = theirs.normed(theirs(_ids(model, 0))[0])
    assert torch.allclose(model.encode_text(CAPTIONS)["states"], expected, atol=1e-5)


def test_sdxls_second_encoder_is_open_clips(tmp_path: Path) -> None:
    model: Any = open_model(write_checkpoint(tiny_sdxl(), tmp_path / "one.safetensors"))
    prefix = "conditioner.embedders.1.model."
    tensors = {n.removeprefix(prefix): v for n, v in checkpoint_tensors(tiny_sdxl()).items() if n.startswith(prefix)}
    states, pooled = OpenClipText(tensors, heads=2)(_ids(model, 1))
    found = model.encode_text(CAPTIONS)
    assert found["states"].shape == (3, 77, 64 + 128) and found["pooled"].shape == (3, 96)
    assert torch.allclose(found["states"][..., 64:], states, atol=1e-5)
    assert torch.allclose(found["pooled"], pooled, atol=1e-4)
