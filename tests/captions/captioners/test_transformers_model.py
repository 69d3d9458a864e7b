"""Captions by a transformers model, made tiny here and saved in its real layout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_train.captions.captioners.transformers_model import transformers_captions
from lora_train.config import PrepareOptions
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.preparing import services_of

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "dog", "on", "blue"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP captioner with random weights."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("blip")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(str(vocabulary))
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder, safe_serialization=True)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_one_caption_per_picture_in_order(blip: Path) -> None:
    pictures = [Image.new("RGB", (40, 30 + n), (n * 40, 0, 0)) for n in range(5)]
    captions = list(transformers_captions(str(blip), pictures))
    assert len(captions) == 5 and all(isinstance(text, str) for text in captions)
    again = list(StandaloneHost(captioner=str(blip)).caption(iter(pictures), "blip"))
    assert again == captions


def test_it_is_what_a_run_asks_where_it_is_chosen(blip: Path, tmp_path: Path) -> None:
    options = PrepareOptions(operations=("interrogate",), captioner="transformers", captioner_model=str(blip))
    services = services_of(StandaloneHost(tmp_path), options)
    pictures = [Image.new("RGB", (40, 30), (n * 40, 0, 0)) for n in range(2)]
    assert services.caption and services.tags is None
    assert list(services.caption(pictures)) == list(transformers_captions(str(blip), pictures))


def test_a_pickle_is_not_loaded(blip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(blip, tmp_path / "blip")
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "evil"),))

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(LoraTrainError, match="cannot be loaded.*model.safetensors"):
        list(transformers_captions(str(folder), [Image.new("RGB", (8, 8))]))
    assert not (tmp_path / "evil").exists()


def test_a_captioner_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="cannot be loaded.*LORA_TRAIN_DOWNLOAD"):
        list(transformers_captions(str(tmp_path), [Image.new("RGB", (8, 8))]))
    with pytest.raises(LoraTrainError, match="no captioner here.*LORA_TRAIN_CAPTIONER"):
        list(StandaloneHost().caption([], "blip"))
    with pytest.raises(LoraTrainError, match="no captioner here"):
        list(StandaloneHost().caption([], "deepbooru"))
