"""Texts of more than 75 tokens: chunks of their own start and end, side by side, as the WebUI reads prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.demo.files import base_folder
from lora_train.models.base import Frame, reading
from lora_train.models.latent_diffusion import MASK
from lora_train.models.opening import open_model
from lora_train.models.sampling import Request, _conditioning
from lora_train.models.text import encode_clip, encode_penultimate, tokenize_chunks
from lora_train.train.text_states import TextStates
from tests.models.tiny import Tiny, tiny_sd1, tiny_sd2, tiny_sdxl, write_folder

WORDS = ["red", "star", "on", "blue"]
LONG, SHORT = " ".join(WORDS[number % 4] for number in range(160)), "a red star"
"""160 tokens: two full chunks and one of 10."""


@pytest.fixture(params=[(tiny_sd1, (None,)), (tiny_sd2, (0,)), (tiny_sdxl, (None, 0))], ids=["sd1", "sd2", "sdxl"])
def made(request: Any, tmp_path: Path) -> tuple[Any, tuple[int | None, ...]]:
    """A model that reads three chunks, and what pads each tokenizer's rows."""
    make: Callable[[], Tiny] = request.param[0]
    model: Any = open_model(write_folder(make(), tmp_path / "folder"))
    model.to(torch.device("cpu"), torch.float32)
    model.text_chunks = 3
    return model, request.param[1]


def by_hand(model: Any, encoder: int, pad: int | None, text: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The states of each chunk side by side, and what the encoder says of the first as a whole."""
    tokenizer = model.tokenizers[encoder]
    ids, ends = tokenizer(text, add_special_tokens=False).input_ids, (tokenizer.bos_token_id, tokenizer.eos_token_id)
    fill = tokenizer.pad_token_id if pad is None else pad
    states, pooled = [], []
    for number in range(max(1, -(-len(ids) // 75))):
        part = ids[number * 75 : number * 75 + 75]
        row = torch.tensor([[ends[0], *part, ends[1], *[fill] * (75 - len(part))]])
        if len(model.text_encoders) > 1:
            one, whole = encode_penultimate(model.text_encoders[encoder], row)
            pooled.append(whole)
        else:
            one = encode_clip(model.text_encoders[encoder], row, 1)
        states.append(one)
    return torch.cat(states, 1), pooled[0] if pooled else None


@torch.no_grad()
def test_each_chunk_is_read_by_itself(made: tuple[Any, tuple[int | None, ...]]) -> None:
    model, pads = made
    assert model.text_room == 225 and model.count_tokens(LONG) == 160
    encoded = model.encode_text([LONG, SHORT])
    for row, (text, length) in enumerate(((LONG, 231), (SHORT, 77))):
        parts = [by_hand(model, number, pad, text) for number, pad in enumerate(pads)]
        expected = torch.cat([states for states, _ in parts], -1)[0]
        assert expected.shape[0] == length
        assert torch.allclose(encoded["states"][row, :length], expected, atol=1e-5)
        assert encoded[MASK][row].tolist() == [True] * length + [False] * (231 - length)
        if "pooled" in encoded:
            pooled = parts[1][1]
            assert pooled is not None and torch.allclose(encoded["pooled"][row], pooled[0], atol=1e-5)


@torch.no_grad()
def test_a_caption_means_the_same_whatever_is_beside_it(made: tuple[Any, tuple[int | None, ...]]) -> None:
    """Alone, beside a longer one, and from the cache of text states."""
    model, _ = made
    x, t, frame = torch.randn(1, 4, 16, 16), torch.tensor([500]), Frame.whole(128, 128)

    def predict(text: Any) -> torch.Tensor:
        count = len(text["states"])
        more = model.extra_inputs([frame] * count)
        return model.predict(x.expand(count, -1, -1, -1), t.expand(count), {**text, **more})  # type: ignore[no-any-return]

    texts = [SHORT, LONG, ""]
    alone = torch.cat([predict(model.encode_text([text])) for text in texts])
    states = TextStates()
    kept = [states.of(texts, lambda text: model.encode_text([text]), model.device) for _ in range(2)]
    for together in (model.encode_text(texts), *kept):
        assert torch.allclose(predict(together), alone, atol=1e-5)
    blind = {name: value for name, value in kept[0].items() if name != MASK}
    assert not torch.allclose(predict(blind)[0], alone[0], atol=1e-5)


@torch.no_grad()
def test_prompts_are_read_whole_whatever_captions_have(made: tuple[Any, tuple[int | None, ...]]) -> None:
    """With a negative prompt of another length; of equal lengths there is nothing to mask."""
    model, _ = made
    model.text_chunks = 1
    found = _conditioning(model, Request(LONG, [1], 64, 64, "blue"), True)
    assert found["states"].shape[:2] == (2, 231) and found[MASK].sum(1).tolist() == [77, 231]
    assert model.text_chunks == 1 and model.text_room == 75
    with reading(model, 3):
        expected = model.encode_text([LONG])["states"]
    assert torch.allclose(found["states"][1:], expected, atol=1e-5)
    assert MASK not in _conditioning(model, Request(SHORT, [1], 64, 64, "blue"), True)


EDGES = ((0, 3, 1), (75, 3, 1), (76, 3, 2), (150, 3, 2), (225, 3, 3), (226, 3, 3), (226, 1, 1))
"""Tokens of a text, most chunks, and how many it has."""


def test_chunks_at_their_edges() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(base_folder() / "tokenizer")
    for count, most, expected in (
        (0, 3, 1),
        (75, 3, 1),
        (76, 3, 2),
        (150, 3, 2),
        (225, 3, 3),
        (226, 3, 3),
        (226, 1, 1),
    ):
        tokens, counts = tokenize_chunks(tokenizer, ["star " * count], most=most)
        assert counts == [expected] and tokens.shape == (expected, 77)
        inside = [[one for one in row[1:] if one != tokenizer.eos_token_id] for row in tokens.tolist()]
        assert sum(map(len, inside)) == min(count, most * 75)
        assert all(row[0] == tokenizer.bos_token_id and row[76] == tokenizer.eos_token_id for row in tokens.tolist())


@torch.no_grad()
def test_weights_of_words_are_those_of_the_webui(made: tuple[Any, tuple[int | None, ...]]) -> None:
    """States times the tokens' weights, each chunk with its mean as it was (`EmphasisOriginal`)."""
    model, pads = made
    heavy, words = f"(red:1.5) {LONG}", f"red {LONG}"
    plain = model.encode_text([words, SHORT])
    literal = model.encode_text([heavy])["states"]
    model.text_weights = True
    found = model.encode_text([heavy, SHORT])
    parts = []
    for number, pad in enumerate(pads):
        states, _ = by_hand(model, number, pad, words)
        first = states[:, :77].clone()
        changed = first.clone()
        changed[:, 1] *= 1.5
        parts.append(torch.cat([changed * (first.mean() / changed.mean()), states[:, 77:]], 1))
    assert torch.allclose(found["states"][0], torch.cat(parts, -1)[0], atol=1e-4)
    assert torch.equal(found["states"][1], plain["states"][1])
    assert not torch.allclose(found["states"][:1, :77], literal[:, :77], atol=1e-3)
    if "pooled" in found:
        assert torch.allclose(found["pooled"], plain["pooled"], atol=1e-5)
