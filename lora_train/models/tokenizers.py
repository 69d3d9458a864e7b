"""Find a tokenizer without the network.

Order: beside the model, the host's loaded model, the local Hugging Face cache, the vocabulary inside an
installed open_clip. CLIP-L and OpenCLIP have the same vocabulary; only what fills up short rows differs:
the end token there, the token 0 ("!") here.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_train.errors import LoraTrainError

CLIP_L_REPOSITORIES = (
    "openai/clip-vit-large-patch14",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-v1-5",
)
VOCABULARY_SIZE = 49_408
OPEN_CLIP_PAD = 0
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes, in CLIP's order (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def clip_tokenizer(beside: Path | None, loaded: Callable[[], list[Any]], vocabulary: int) -> Any:
    """The tokenizer for a CLIP or OpenCLIP text encoder with so many words in its `vocabulary`.

    `beside` is a folder that belongs to the model and may hold one; `loaded` gives those of a host.
    Raises LoraTrainError when no tokenizer is on this machine; nothing is downloaded.
    """
    from transformers import CLIPTokenizer

    if beside is not None and (beside / "vocab.json").is_file():
        return CLIPTokenizer.from_pretrained(beside)
    for tokenizer in loaded():
        if isinstance(tokenizer, CLIPTokenizer) and len(tokenizer) == vocabulary:
            return tokenizer
    for repository in CLIP_L_REPOSITORIES:
        for subfolder in ("", "tokenizer"):
            folder = _cached(repository, subfolder)
            if folder is not None:
                return CLIPTokenizer.from_pretrained(folder)
    shipped = _open_clip_vocabulary()
    if shipped is not None:
        return _from_merges(shipped)
    raise LoraTrainError(
        "the CLIP tokenizer, which a single-file checkpoint does not contain, is not on this machine.",
        "model.path",
        "Put its tokenizer folder (vocab.json, merges.txt) beside the checkpoint as 'tokenizer', "
        "or install open_clip_torch, or use a diffusers folder.",
    )


def _cached(repository: str, subfolder: str) -> Path | None:
    """The folder in the hub's cache that holds the repository's vocabulary, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    name = f"{subfolder}/vocab.json" if subfolder else "vocab.json"
    found = try_to_load_from_cache(repository, name)
    return Path(found).parent if isinstance(found, str) else None


def _open_clip_vocabulary() -> Path | None:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    return path if path.is_file() else None


def _from_merges(path: Path) -> Any:
    """A CLIPTokenizer from CLIP's own merges file (openai/CLIP `simple_tokenizer.py`)."""
    from transformers import CLIPTokenizer

    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : VOCABULARY_SIZE - 512 - 2 + 1]
    alphabet = byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(m.split()) for m in merges] + [START, END]
    with tempfile.TemporaryDirectory() as folder:
        vocab, merged = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
        merged.write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
        config = Path(folder, "tokenizer_config.json")
        config.write_text(json.dumps(special | {"model_max_length": 77, "do_lower_case": True}), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)
