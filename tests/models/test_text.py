"""Text, and what else the UNet is given: diffusers, and OpenCLIP's own computation, are the witnesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.errors import LoraTrainError
from lora_train.models.base import Frame
from lora_train.models.opening import open_model
from lora_train.models.text import encode_clip, encode_penultimate, text_core
from tests.models.pipelines import pipeline_of
from tests.models.tiny import (
    WORDS,
    checkpoint_tensors,
    text_encoder,
    tiny_sd2,
    tiny_sdxl,
    write_checkpoint,
    write_folder,
)

START, END = WORDS - 2, WORDS - 1
CAPTIONS = ["red star on blue", "", "a red red red star! on blue"]


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_sd2_text_equals_diffusers(clip_skip: int, tmp_path: Path) -> None:
    pipeline, model = pipeline_of(write_folder(tiny_sd2(), tmp_path / "folder"))
    if clip_skip > 1 and not hasattr(model.text_encoder, "text_model"):
        pytest.skip("diffusers' clip skip does not work with transformers 5")
    # diffusers counts skipped layers, we count from 1
    skip = None if clip_skip == 1 else clip_skip - 1
    expected = pipeline.encode_prompt(CAPTIONS, "cpu", 1, False, clip_skip=skip)[0]
    assert torch.allclose(model.encode_text(CAPTIONS, clip_skip)["states"], expected, atol=1e-5)


def test_a_layer_that_is_not_there_is_told(tmp_path: Path) -> None:
    model: Any = open_model(write_folder(tiny_sd2(), tmp_path / "folder"))
    layers = model.text_encoders[0].config.num_hidden_layers
    model.encode_text(CAPTIONS, layers)
    with pytest.raises(LoraTrainError, match=f"has {layers} layers"):
        model.encode_text(CAPTIONS, layers + 1)


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_leaves_out_the_last_layers_whatever_the_transformers(clip_skip: int) -> None:
    """A text model of so many layers less, with the same weights, through the same final norm."""
    whole, shorter = text_encoder(64, 3, "quick_gelu"), text_encoder(64, 4 - clip_skip, "quick_gelu")
    norm = text_core(whole).final_layer_norm
    torch.nn.init.normal_(norm.weight)  # as made it changes little
    torch.nn.init.normal_(norm.bias)
    known = shorter.state_dict().keys()
    shorter.load_state_dict({name: value for name, value in whole.state_dict().items() if name in known})
    tokens = torch.tensor([[START, 5, 9, END, 0, 0], [START, 7, END, 0, 0, 0]])
    with torch.no_grad():
        expected = shorter(tokens)[0]
        found = encode_clip(whole, tokens, clip_skip)
        other = encode_clip(whole, tokens, 1 + clip_skip % 3)
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(other, expected, atol=1e-2)


def test_the_penultimate_layers_states_are_those_before_the_last_layer() -> None:
    encoder = text_encoder(64, 3, "gelu", 48)
    seen: list[torch.Tensor] = []

    def keep(_layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(inputs[0] if inputs else named["hidden_states"])

    text_core(encoder).encoder.layers[-1].register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        states, pooled = encode_penultimate(encoder, torch.tensor([[START, 5, 9, END, 0, 0]]))
    assert torch.equal(states, seen[0]) and pooled is not None and pooled.shape == (1, 48)


def test_sdxl_text_equals_diffusers(tmp_path: Path) -> None:
    pipeline, model = pipeline_of(write_folder(tiny_sdxl(), tmp_path / "folder"))
    states, _, pooled, _ = pipeline.encode_prompt(CAPTIONS, device="cpu", do_classifier_free_guidance=False)
    for clip_skip in (1, 2):
        found = model.encode_text(CAPTIONS, clip_skip)
        assert torch.allclose(found["states"], states, atol=1e-5)
        assert torch.allclose(found["pooled"], pooled, atol=1e-5)


def test_sdxl_sizes_and_prediction_equal_diffusers(tmp_path: Path) -> None:
    pipeline, model = pipeline_of(write_folder(tiny_sdxl(), tmp_path / "folder"))
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
    return torch.tensor([[START, *row, END] + [0] * (75 - len(row)) for row in rows])


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
