"""Names and shapes at the families' real sizes, on the meta device; diffusers' and kohya's tools are the witnesses."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.models.base import Parts
from lora_train.models.ldm_configs import LAYOUTS, text_config, unet_config
from lora_train.models.ldm_keys import Translator, UnetShape, unet_pairs, vae_pairs
from lora_train.models.open_clip_keys import to_open_clip, to_transformers
from lora_train.models.stable_diffusion import CLASSES
from lora_train.models.text import file_name_of
from lora_train.networks.base import Form
from lora_train.networks.inject import create_networks

UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"sample_size": 64, "cross_attention_dim": 768},
    "sd2": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
# width, layers, activation, projection (0: none)
TEXTS = {
    "sd1": [(768, 12, "quick_gelu", 0)],
    "sd2": [(1024, 23, "gelu", 0)],
    "sdxl": [(768, 12, "quick_gelu", 0), (1280, 32, "gelu", 1280)],
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


@cache
def unet_of(family: str) -> Any:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**UNETS[family])


@cache
def texts_of(family: str) -> list[Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    found = []
    for width, layers, act, projection in TEXTS[family]:
        config = CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            hidden_act=act,
            projection_dim=projection or width,
        )
        with torch.device("meta"):
            found.append((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))
    return found


@cache
def vae() -> Any:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL(**VAE)


def model_of(family: str) -> Any:
    """The family's model, all of it on the meta device but for a small VAE."""
    from diffusers import AutoencoderKL

    texts = texts_of(family)
    return CLASSES[family](
        Parts(Path("x"), unet_of(family), AutoencoderKL(), texts, [None] * len(texts), (None,) * len(texts))
    )


def _witness() -> Any:
    try:
        from diffusers.loaders import single_file_utils
    except ImportError as error:
        pytest.skip(f"this diffusers has no single_file_utils ({error})")
    return single_file_utils


@pytest.mark.parametrize("family", list(UNETS))
def test_unet_names_and_their_inverse(family: str) -> None:
    """diffusers' own conversion turns what we write into the model's names, tensor by tensor; ours does too."""
    unet = unet_of(family)
    translator = Translator(unet_pairs(UnetShape.of_config(unet.config)))
    state = unet.state_dict()
    theirs = {translator.to_ldm(name): value for name, value in state.items()}
    assert len(theirs) == len(state) and not theirs.keys() & state.keys()
    assert {translator.to_diffusers(name): value for name, value in theirs.items()} == state
    prefixed = {f"model.diffusion_model.{name}": value for name, value in theirs.items()}
    found = _witness().convert_ldm_unet_checkpoint(prefixed, dict(unet.config))
    assert found.keys() == state.keys()
    assert all(found[name] is value for name, value in state.items())


def test_vae_names_and_their_inverse() -> None:
    translator = Translator(vae_pairs(4, 2))
    state = vae().state_dict()
    theirs = {translator.to_ldm(name): value for name, value in state.items()}
    assert {translator.to_diffusers(name): value for name, value in theirs.items()} == state
    prefixed = {
        f"first_stage_model.{n}": v[:, :, None, None] if ".attn_1." in n and v.ndim == 2 else v
        for n, v in theirs.items()
    }
    found = _witness().convert_ldm_vae_checkpoint(prefixed, dict(vae().config))
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in state.items()}


@pytest.mark.parametrize(("width", "layers", "projection"), [(1024, 23, 0), (1280, 32, 1280)], ids=["H", "bigG"])
def test_open_clip_names_and_their_inverse(width: int, layers: int, projection: int) -> None:
    """Two layers with values, all with names: through diffusers' conversion and through ours."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=100, hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=width // 64
    )
    config.projection_dim = projection or width
    text = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    state = {file_name_of(n): v for n, v in text.state_dict().items() if "position_ids" not in n}
    theirs = to_open_clip(state)
    back = to_transformers(theirs)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    found = _witness().convert_open_clip_checkpoint(text, {f"x.{n}": v for n, v in theirs.items()}, prefix="x.")
    found = {file_name_of(name): value for name, value in found.items() if "position_ids" not in name}
    assert all(torch.equal(found[name], value) for name, value in state.items())
    index = -1 if projection else 0
    whole = {file_name_of(n): v for n, v in texts_of("sdxl" if projection else "sd2")[index].state_dict().items()}
    whole = {name: value for name, value in whole.items() if "position_ids" not in name}
    back = to_transformers(to_open_clip(whole))
    assert {n: v.shape for n, v in back.items()} == {n: v.shape for n, v in whole.items()}
    assert len([n for n in back if n.endswith("q_proj.weight")]) == layers


def test_an_sdxl_checkpoint_has_as_many_tensors_as_the_published_one() -> None:
    """sd_xl_base_1.0.safetensors: 2515, with the two constants that we leave out."""
    first, second = texts_of("sdxl")
    bare = {n: v for n, v in first.state_dict().items() if "position_ids" not in n}
    open_clip = to_open_clip({file_name_of(n): v for n, v in second.state_dict().items() if "position_ids" not in n})
    parts = (unet_of("sdxl").state_dict(), vae().state_dict(), bare, open_clip)
    assert sum(map(len, parts)) + len(("position_ids", "logit_scale")) == 2515


@pytest.mark.parametrize("family", list(UNETS))
def test_configurations_are_read_off_the_shapes(family: str) -> None:
    unet = unet_of(family)
    translator = Translator(unet_pairs(UnetShape.of_config(unet.config)))
    shapes = {translator.to_ldm(name): tuple(value.shape) for name, value in unet.state_dict().items()}
    config, shape = unet_config(shapes, LAYOUTS[family], {})
    assert shape == UnetShape.of_config(unet.config)
    expected = dict(unet.config)
    for name, value in config.items():
        wanted = expected[name]
        assert value == (tuple(wanted) if isinstance(wanted, (list, tuple)) else wanted), name
    for text, layout in zip(texts_of(family), LAYOUTS[family].text):
        shapes = {name: tuple(value.shape) for name, value in text.state_dict().items()}
        made = text_config(shapes, layout.open_clip)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "intermediate_size"):
            assert getattr(made, name) == getattr(text.config, name)


@pytest.mark.parametrize("family", list(UNETS))
def test_norms_are_targets_when_asked(family: str) -> None:
    model = model_of(family)
    plain, more = model.module_names(True), model.module_names(True, norms=True)
    assert plain.items() <= more.items()
    added = [place for name, place in more.items() if name not in plain]
    assert all(place.rsplit(".", 1)[-1].startswith("norm") for place in added)
    # two norms a residual block, one an attention, three a transformer block; none outside of the blocks
    blocks = sum(path.endswith("norm3") for path, _ in model.unet.named_modules())
    residual = sum(path.endswith(".conv2") for path, _ in model.unet.named_modules())
    attention = sum(path.endswith(".proj_in") for path, _ in model.unet.named_modules())
    assert len(added) == 2 * residual + attention + 3 * blocks


@pytest.mark.parametrize("family", list(UNETS))
@pytest.mark.parametrize(("kind", "convolutions"), [("lora", None), ("locon", Form(4, 1.0))])
def test_file_names_and_shapes_are_kohyas(family: str, kind: str, convolutions: Form | None) -> None:
    """Exactly the tensors that sd-scripts writes: SD 2.x' 23 layers as `lora_te`, SDXL's blocks in its own names."""
    model = model_of(family)
    prefixes = ("lora_unet", *model.text_prefixes)
    networks = create_networks(model, "lora", Form(8, 4.0), torch.Generator(), prefixes, convolutions)
    found = {name: ["float32", list(value.shape)] for name, value in networks.file_tensors().items()}
    path = Path(__file__).parents[1] / "golden" / f"{family}_{kind}.json.gz"
    assert found == json.loads(gzip.decompress(path.read_bytes()))
