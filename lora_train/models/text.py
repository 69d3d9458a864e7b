"""CLIP text models in transformers 4.30 to 5.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lora_train.errors import LoraTrainError
from lora_train.models.filling import fill
from lora_train.pictures.weights import weighted_parts
from lora_train.records.families import FAMILIES

_CLIP = FAMILIES["sd1"].texts[0]
_INNER, _PROJECTION = _CLIP.begins


def text_core(encoder: nn.Module) -> nn.Module:
    """The module that holds `encoder.layers`; transformers 5 dropped the `text_model` in between."""
    return getattr(encoder, "text_model", encoder)


def file_name_of(path: str) -> str:
    """A module's path as files spell it: with `text_model.` in front, whatever this transformers has."""
    return _CLIP.spelled(path)


def build_text_encoder(config: Any, weights: Mapping[str, torch.Tensor], projected: bool) -> tuple[Any, list[str]]:
    """A text model of `config` with `weights`, named with or without `text_model.`; and the names of missing weights.

    With `projected` it is one with the pooled, projected state (SDXL's second); else a projection is left out.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    with torch.device("meta"):
        inner = hasattr(kind(config), _INNER.rstrip("."))
    named = {}
    for name, value in weights.items():
        if name.endswith("position_ids"):
            continue  # a constant in older files
        bare = name.removeprefix(_INNER)
        named[_INNER + bare if inner and not bare.startswith(_PROJECTION) else bare] = value
    return fill(lambda: kind(config), named)


READ_FROM = 20_000
"""Most characters of a caption that are tokenized: CLIP's longest token has 38."""


def room_of(tokenizer: Any) -> int:
    """How many tokens of a text are read: the row's length without its start and end."""
    return int(tokenizer.model_max_length) - 2


def count_tokens(tokenizer: Any, text: str) -> int:
    """The number of tokens of a text; of a text longer than READ_FROM characters, those of its beginning."""
    return len(tokenizer(text[:READ_FROM], add_special_tokens=False, verbose=False).input_ids)


def tokenize(tokenizer: Any, captions: Sequence[str], pad: int | None = None) -> torch.Tensor:
    """Token ids (B, T), every row truncated or padded to the tokenizer's length (77).

    `pad` is the id that rows are padded with; None: the tokenizer's own.
    """
    return tokenize_chunks(tokenizer, captions, pad)[0]


def tokenize_chunks(
    tokenizer: Any, captions: Sequence[str], pad: int | None = None, most: int = 1
) -> tuple[torch.Tensor, list[int]]:
    """Chunks as in `weighted_chunks`, of captions without weights."""
    begun = [caption[:READ_FROM] for caption in captions]  # the tokenizer would read all of it first, word by word
    texts = tokenizer(begun, max_length=most * room_of(tokenizer) + 2, truncation=True).input_ids
    ends = (texts[0][0], texts[0][-1])
    tokens, _, counts = _chunked(tokenizer, [[(one, 1.0) for one in text[1:-1]] for text in texts], ends, pad, most)
    return tokens, counts


def weighted_chunks(
    tokenizer: Any, captions: Sequence[str], pad: int | None = None, most: int = 1
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """As `tokenize_chunks`, of captions with weights such as `(word:1.2)`, which are read piece by piece; and the
    weight of each token (N, T), 1 for start, end and padding."""
    texts = []
    for caption in captions:
        pieces = weighted_parts(caption[:READ_FROM])
        read = [(tokenizer(piece, add_special_tokens=False, verbose=False).input_ids, one) for piece, one in pieces]
        texts.append([(token, weight) for tokens, weight in read for token in tokens])
    return _chunked(tokenizer, texts, (tokenizer.bos_token_id, tokenizer.eos_token_id), pad, most)


def weighed(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """States (N, T, D) times the tokens' weights (N, T), with the mean of each chunk as it was: as the WebUI does it
    (`modules/sd_emphasis.py`)."""
    changed = states * weights.unsqueeze(-1).to(states)
    # only where there are weights: elsewhere the division would change the last bits
    ratio = states.mean((1, 2), keepdim=True) / changed.mean((1, 2), keepdim=True)
    return torch.where((weights != 1).any(1)[:, None, None], changed * ratio, states)


def _chunked(
    tokenizer: Any, texts: Sequence[Sequence[tuple[int, float]]], ends: tuple[int, int], pad: int | None, most: int
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Token ids (N, T) of each text's chunks, one text after the other, their weights (N, T), and how many chunks each
    text has; `ends` are the tokens at the start and end of a chunk.

    A chunk has up to 75 tokens between its own start and end, and is padded to the tokenizer's length (77) with `pad`
    (None: the tokenizer's own). A caption has as many as it needs, at least one and at most `most`; the rest is cut
    off. As the WebUI reads prompts (`modules/sd_hijack_clip.py`), but it looks for a comma near the end of a chunk.
    """
    length, room = int(tokenizer.model_max_length), room_of(tokenizer)
    start, end = (ends[0], 1.0), (ends[1], 1.0)
    filler = (tokenizer.pad_token_id if pad is None else pad, 1.0)
    rows: list[list[tuple[int, float]]] = []
    counts = []
    for text in texts:
        inner = text[: most * room]
        chunks = [inner[at : at + room] for at in range(0, len(inner), room)] or [[]]
        rows += [[start, *chunk, end, *[filler] * (length - 2 - len(chunk))] for chunk in chunks]
        counts.append(len(chunks))
    tokens = torch.tensor([[token for token, _ in row] for row in rows])
    return tokens, torch.tensor([[weight for _, weight in row] for row in rows]), counts


def join_chunks(states: torch.Tensor, counts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """States (N, T, D) of chunks as one row for each caption (B, n * T, D), n the chunks of the longest one; and where
    there is text (B, n * T), bool: shorter ones are padded with zeros, which nothing may look at."""
    longest, (_, length, _) = max(counts), states.shape
    rows = [torch.cat([*chunks]) for chunks in states.split(list(counts))]
    there = torch.tensor([[True] * (n * length) + [False] * ((longest - n) * length) for n in counts])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), there.to(states.device)


def encode_clip(encoder: Any, tokens: torch.Tensor, clip_skip: int) -> torch.Tensor:
    """Hidden states (B, T, D) of the layer `clip_skip` from the end, through the final norm.

    Source: NovelAI's "clip skip", as the WebUI computes it. Raises LoraTrainError when there are fewer layers.
    """
    if clip_skip == 1:
        return encoder(tokens)[0]  # type: ignore[no-any-return]
    layers = encoder.config.num_hidden_layers
    if clip_skip > layers:
        raise LoraTrainError(
            f"this base's text encoder has {layers} layers.", "model.clip_skip", f"Give 1 to {layers}."
        )
    states = encoder(tokens, output_hidden_states=True).hidden_states[-clip_skip]
    return text_core(encoder).final_layer_norm(states)  # type: ignore[no-any-return, operator]


def encode_penultimate(encoder: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states (B, T, D) of the penultimate layer, without the final norm, as SDXL uses them;
    and the pooled, projected state (B, P) where the encoder has one."""
    made = encoder(tokens, output_hidden_states=True)
    return made.hidden_states[-2], getattr(made, "text_embeds", None)
