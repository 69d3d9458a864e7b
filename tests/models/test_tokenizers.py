"""Where the tokenizer of a one-file checkpoint comes from, without the network."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lora_train.cli import main
from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.models.opening import open_model, require_tokenizer
from lora_train.models.tokenizers import (
    OPEN_CLIP_PAD,
    VOCABULARY_SIZE,
    TokenizerSources,
    _open_clip_vocabulary,
    byte_alphabet,
    clip_tokenizer,
)
from tests.full_size import write_tokenizer
from tests.models.tiny import WORDS, Tiny, tiny_sd1, tiny_sd2, tiny_sdxl, write_checkpoint


def merges_file() -> list[str]:
    """A file like CLIP's, longer than what is used of it; its first line is a comment."""
    letters = string.ascii_lowercase
    merges = ["t h", "th e</w>", "a t</w>", "c at</w>"]
    merges += [f"{a} {b}" for a, b in itertools.product(letters, letters)]
    merges += [f"{a} {b}</w>" for a, b in itertools.product(letters, letters)]
    merges += [f"{a}{b} {c}</w>" for a, b, c in itertools.product(letters, letters, letters)]
    merges += [f"{a}{b} {c}" for a, b, c in itertools.product(letters, letters, letters)]
    merges += [f"{a}{b} {c}{d}" for a, b, c, d in itertools.product(letters, letters, letters, letters)]
    unlike: dict[str, str] = {}
    for merge in merges:
        unlike.setdefault(merge.replace(" ", ""), merge)
    return ['"bpe_simple_vocab_16e6.txt#version: 0.2', *list(unlike.values())[:60_000]]


def clips_own(lines: list[str], text: str) -> list[int]:
    """Ids as openai/CLIP's `simple_tokenizer.py` makes them, for words of small letters."""
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    alphabet = byte_alphabet()
    words = alphabet + [c + "</w>" for c in alphabet] + ["".join(merge) for merge in merges]
    ids, ranks = {word: i for i, word in enumerate(words)}, {merge: i for i, merge in enumerate(merges)}
    out = []
    for word in text.split():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            best = min(itertools.pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            merged, at = [], 0
            while at < len(parts):
                joined = tuple(parts[at : at + 2]) == best
                merged.append("".join(parts[at : at + 2]) if joined else parts[at])
                at += 2 if joined else 1
            parts = merged
        out += [ids[part] for part in parts]
    return out


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without open_clip and with an empty cache of the hub."""
    monkeypatch.setattr("lora_train.models.tokenizers._open_clip_vocabulary", lambda: None)
    monkeypatch.setattr("lora_train.models.tokenizers._cached", lambda repository, subfolder: None)


@pytest.fixture
def open_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An installed open_clip that cannot be imported, as without torchvision; returns its merges file's lines."""
    package = tmp_path / "site" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('torchvision')", encoding="utf-8")
    lines = merges_file()
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz", "wb") as file:
        file.write("\n".join(lines).encode())
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr("lora_train.models.tokenizers._cached", lambda repository, subfolder: None)
    return lines


def bare(tiny: Tiny, folder: Path) -> Path:
    """A one-file checkpoint with nothing beside it."""
    path = write_checkpoint(tiny, folder / "one.safetensors")
    shutil.rmtree(folder / "tokenizer")
    return path


def test_the_tokenizer_from_open_clips_file_is_clips(open_clip: list[str]) -> None:
    tokenizer = clip_tokenizer(None, TokenizerSources(), VOCABULARY_SIZE)
    assert len(tokenizer) == VOCABULARY_SIZE
    assert "open_clip" not in sys.modules
    for text in ("cat", "the cat sat", "thecat", "zebra crossing"):
        assert tokenizer(text, add_special_tokens=False).input_ids == clips_own(open_clip, text), text
    assert tokenizer("cat").input_ids == [49406, *clips_own(open_clip, "cat"), 49407]
    assert tokenizer("CAT").input_ids == tokenizer("cat").input_ids
    assert tokenizer.model_max_length == 77 and tokenizer.pad_token_id == 49407
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(VOCABULARY_SIZE))
    assert vocabulary["!"] == 0 and vocabulary["th"] == 512 and vocabulary["the</w>"] == 513


@pytest.mark.skipif(_open_clip_vocabulary() is None, reason="open_clip's vocabulary is not installed")
def test_clips_real_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids as OpenAI's and OpenCLIP's own code gives them."""
    monkeypatch.setattr("lora_train.models.tokenizers._cached", lambda repository, subfolder: None)
    tokenizer = clip_tokenizer(None, TokenizerSources(), VOCABULARY_SIZE)
    assert len(tokenizer) == VOCABULARY_SIZE
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("hello world!").input_ids == [49406, 3306, 1002, 256, 49407]


@pytest.mark.parametrize("make", [tiny_sd1, tiny_sd2, tiny_sdxl])
def test_each_familys_one_file_opens_with_it(make: Callable[..., Tiny], open_clip: list[str], tmp_path: Path) -> None:
    file = bare(make(words=VOCABULARY_SIZE), tmp_path / make.__name__)
    model: Any = open_model(file)
    expected = [49406, *clips_own(open_clip, "the cat"), 49407]
    for number, padding in enumerate(model.padding):
        (row,) = model._tokens(number, ["the cat"])[0].tolist()
        assert row == expected + [49407 if padding is None else OPEN_CLIP_PAD] * (77 - len(expected))
    assert model.padding == {"tiny_sd1": (None,), "tiny_sd2": (0,), "tiny_sdxl": (None, 0)}[make.__name__]


def test_without_any_it_is_said_before_a_run_starts(
    nothing_installed: None, make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    from lora_train.runs.execute import run_training

    file = bare(tiny_sd1(words=VOCABULARY_SIZE), tmp_path / "model")
    host = StandaloneHost(tmp_path / "data", offline=True)
    with pytest.raises(LoraTrainError, match="pip install --no-deps open_clip_torch"):
        run_training(make_config(model={"path": str(file)}), host)
    assert not (tmp_path / "data" / "runs").exists()


def test_a_vocabulary_that_is_not_clips_is_not_read_with_clips(open_clip: list[str], tmp_path: Path) -> None:
    file = bare(tiny_sd1(), tmp_path)
    with pytest.raises(LoraTrainError, match=f"{WORDS} tokens"):
        require_tokenizer(file, TokenizerSources())


def test_a_tokenizer_beside_that_belongs_to_another_model_is_refused(tmp_path: Path) -> None:
    file = bare(tiny_sd1(), tmp_path)
    write_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(LoraTrainError, match="49408 tokens"):
        open_model(file)


def test_a_small_tokenizer_beside_a_real_checkpoint_is_refused(tmp_path: Path) -> None:
    """Silence would be a training on other words."""
    file = write_checkpoint(tiny_sd1(words=VOCABULARY_SIZE), tmp_path / "one.safetensors")
    with pytest.raises(LoraTrainError, match=f"has {WORDS} tokens, its text encoder 49408"):
        open_model(file)


def test_a_damaged_tokenizer_beside_is_named(tmp_path: Path) -> None:
    file = bare(tiny_sd1(), tmp_path)
    write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(LoraTrainError, match="damaged"):
        open_model(file)


def test_a_download_is_the_last_way_and_said(
    nothing_installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    write_tokenizer(tmp_path / "hub")
    (tmp_path / "hub" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))

    def download(repository: str, name: str) -> str:
        asked.append(f"{repository}/{name}")
        return str(tmp_path / "hub" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    said: list[str] = []
    tokenizer = clip_tokenizer(None, TokenizerSources(download=True, say=said.append), VOCABULARY_SIZE)
    assert len(tokenizer) == VOCABULARY_SIZE
    assert asked[0] == "openai/clip-vit-large-patch14/vocab.json" and len(asked) == 4
    assert len(said) == 1 and "Hugging Face hub" in said[0]
    asked.clear()
    with pytest.raises(LoraTrainError, match="not on this machine"):
        clip_tokenizer(None, TokenizerSources(say=said.append), VOCABULARY_SIZE)
    assert not asked and len(said) == 1


def test_a_download_that_fails_is_said(nothing_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, name: str) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    said: list[str] = []
    with pytest.raises(LoraTrainError, match="could not be reached"):
        clip_tokenizer(None, TokenizerSources(download=True, say=said.append), VOCABULARY_SIZE)
    assert len(said) == 2 and "failed" in said[1]


def test_offline_at_the_command_line_downloads_nothing(
    nothing_installed: None, monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    asked: list[str] = []

    def download(repository: str, name: str) -> str:
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    file = bare(tiny_sd1(words=VOCABULARY_SIZE), tmp_path / "model")
    train = ["train", "--model", str(file), "--input", str(pictures), "--output", "a", "--dir", str(tmp_path / "l")]
    generate = ["generate", "x", "--model", str(file), "--output", str(tmp_path / "a.png")]
    for command in (train, generate):
        assert main([*command, "--offline"]) == 2
        assert not asked
        assert main(command) == 2
        assert asked
        asked.clear()
        assert "open_clip_torch" in capsys.readouterr().err
