"""A small CLIP-style BPE tokenizer for the demo's base model.

CLIP's own vocabulary of 49,408 tokens would be most of a tiny model. This one has CLIP's byte
alphabet, a few hundred merges learned from the captions, and the same two special tokens,
the end token last (transformers 4.30 finds the end of a text by the highest id).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from lora_train.models.tokenizers import END, START, byte_alphabet

MAX_LENGTH = 77


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Learn `count` byte-pair merges (Sennrich et al. 2016) from lower-case ASCII words."""
    pieces = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}
    return merges


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def write_tokenizer(folder: Path, merge_count: int, captions: Iterable[str]) -> None:
    """Write `vocab.json`, `merges.txt` and the configs of a CLIPTokenizer into `folder`."""
    words: Counter[str] = Counter()
    for text in captions:
        words.update(text.replace(",", " , ").split())
    merges = learn_merges(words, merge_count)
    alphabet = byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(m) for m in merges] + [START, END]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = special | {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": MAX_LENGTH,
        "tokenizer_class": "CLIPTokenizer",
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    _write(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2))
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
