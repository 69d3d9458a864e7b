"""CLIP's tokenizer, for single-file checkpoints, which contain none.

Order: beside the model, the host's, the local Hugging Face cache, the vocabulary inside an installed
open_clip, and last the hub itself, where that is allowed. CLIP-L and OpenCLIP have the same vocabulary; only
the padding differs: the end token in CLIP-L, the token 0 ("!") in OpenCLIP.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
_FILES = (_VOCABULARY, _MERGES, "tokenizer_config.json", "special_tokens_map.json")


def _none() -> list[Any]:
    return []


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class TokenizerSources:
    """Where a tokenizer may come from besides the model's own folder and what is installed here."""

    loaded: Callable[[], list[Any]] = _none
    """Those of a host."""
    download: bool = False
    """Whether CLIP's may be fetched from the Hugging Face hub, once, into its cache."""
    say: Callable[[str], None] = _silent
    """Called with a message before a download starts."""


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes, in CLIP's order (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def clip_tokenizer(beside: Path | None, sources: TokenizerSources, vocabulary: int) -> Any:
    """The tokenizer for a CLIP or OpenCLIP text encoder with a vocabulary of this size.

    `beside` is a folder that belongs to the model and may hold one. Raises LoraTrainError when there is none,
    or its vocabulary is not the text encoder's.
    """
    found = find_tokenizer(beside, sources, vocabulary)()
    if (len(found) != vocabulary and len(found) != VOCABULARY_SIZE) or len(found) > vocabulary:
        raise LoraTrainError(
            f"the tokenizer beside the checkpoint has {len(found)} tokens, its text encoder {vocabulary}.",
            str(beside),
            "Put this checkpoint's own tokenizer there, or move the folder away.",
        )
    return found


def find_tokenizer(beside: Path | None, sources: TokenizerSources, vocabulary: int) -> Callable[[], Any]:
    """A function that loads the tokenizer of `clip_tokenizer`; here it is only found, or downloaded where necessary.

    Raises LoraTrainError when there is none.
    """
    found = next(_found(beside, sources, vocabulary), None)
    if found is None:
        raise _missing(vocabulary, sources.download)
    return found


def _found(beside: Path | None, sources: TokenizerSources, vocabulary: int) -> Iterator[Callable[[], Any]]:
    """Functions that load each suitable tokenizer, the nearest first; found lazily."""
    from transformers import CLIPTokenizer

    if beside is not None and (beside / _VOCABULARY).is_file():
        yield partial(_beside, beside)
    for tokenizer in sources.loaded():
        if isinstance(tokenizer, CLIPTokenizer) and len(tokenizer) == vocabulary:
            yield partial(_itself, tokenizer)
    if vocabulary < VOCABULARY_SIZE:
        return  # not CLIP's: its ids would be beyond the embeddings
    for repository in CLIP_L_REPOSITORIES:
        for subfolder in ("", "tokenizer"):
            folder = _cached(repository, subfolder)
            if folder is not None:
                yield partial(CLIPTokenizer.from_pretrained, folder)
    shipped = _open_clip_vocabulary()
    if shipped is not None:
        yield partial(_from_merges, shipped)
    if sources.download:
        folder = _downloaded(CLIP_L_REPOSITORIES[0], sources.say)
        if folder is not None:
            yield partial(CLIPTokenizer.from_pretrained, folder)


def _itself(tokenizer: Any) -> Any:
    return tokenizer


def _beside(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers and tokenizers raise all kinds of exceptions on damaged files
        raise LoraTrainError(
            f"the tokenizer beside the checkpoint is damaged ({type(error).__name__}: {error}).",
            str(folder),
            "Copy it again, or remove the folder if the checkpoint has CLIP's own vocabulary.",
        ) from error


def _missing(vocabulary: int, tried_hub: bool) -> LoraTrainError:
    beside = "Put its tokenizer folder (vocab.json, merges.txt) beside the checkpoint as 'tokenizer'"
    if vocabulary < VOCABULARY_SIZE:
        return LoraTrainError(
            f"the text encoder of this checkpoint has {vocabulary} tokens, so CLIP's tokenizer does not fit.",
            "model.path",
            f"{beside}.",
        )
    hub = ", and the Hugging Face hub could not be reached" if tried_hub else ""
    return LoraTrainError(
        f"the CLIP tokenizer, which a single-file checkpoint does not contain, is not on this machine{hub}.",
        "model.path",
        f"Run: {sys.executable} -m pip install --no-deps open_clip_torch (only its vocabulary is used). "
        f"Or: {beside[0].lower()}{beside[1:]}, or use a diffusers folder.",
    )


def _cached(repository: str, subfolder: str) -> Path | None:
    """The folder in the hub's cache that holds the repository's vocabulary, if any."""
    from huggingface_hub import try_to_load_from_cache

    prefix = f"{subfolder}/" if subfolder else ""
    found = [try_to_load_from_cache(repository, prefix + name) for name in (_VOCABULARY, _MERGES)]
    there = [Path(path) for path in found if isinstance(path, str)]
    return there[0].parent if len(there) == len(found) else None


def _downloaded(repository: str, say: Callable[[str], None]) -> Path | None:
    """The same after a download of 1.5 MB; None where that fails."""
    from huggingface_hub import hf_hub_download

    say(f"Downloading CLIP's tokenizer from the Hugging Face hub ({repository}, 1.5 MB) ...")
    try:
        there = [Path(hf_hub_download(repository, name)) for name in _FILES]
        return there[0].parent
    except Exception as error:  # requests', httpx's or the hub's own, depending on the version
        say(f"The download failed ({type(error).__name__}).")
        return None


def _open_clip_vocabulary() -> Path | None:
    """The merges file of an installed open_clip, which is not imported: that would need torchvision."""
    try:
        spec = importlib.util.find_spec("open_clip")
    except (ImportError, ValueError):  # half uninstalled
        return None
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if path.is_file():
            return path
    return None


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
