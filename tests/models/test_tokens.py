from __future__ import annotations

from typing import Any

import pytest
from transformers import CLIPTokenizer

from lora_train.demo.files import base_folder
from lora_train.models.text import READ_FROM, count_tokens, room_of, tokenize


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(base_folder() / "tokenizer")


def test_tokens_are_counted_as_they_are_read(tokenizer: CLIPTokenizer) -> None:
    assert room_of(tokenizer) == 75
    assert count_tokens(tokenizer, "") == 0
    text = "a red star, a blue star"
    end = tokenizer.eos_token_id
    assert tokenize(tokenizer, [text])[0].tolist().index(end) == count_tokens(tokenizer, text) + 1
    assert count_tokens(tokenizer, "star " * 500) > 75


def test_of_a_caption_of_millions_of_letters_the_beginning_is_read(tokenizer: CLIPTokenizer) -> None:
    asked: list[int] = []

    class Noting:
        model_max_length, pad_token_id = tokenizer.model_max_length, tokenizer.pad_token_id

        def __call__(self, captions: list[str], **options: Any) -> Any:
            asked.extend(map(len, captions))
            return tokenizer(captions, **options)

    text = "a red star, " * 4000
    assert tokenize(Noting(), [text]).tolist() == tokenize(tokenizer, [text[:2000]]).tolist()
    assert asked == [READ_FROM]
