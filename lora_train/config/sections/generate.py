"""Pictures from a prompt: the command `generate` and the *Generate* page."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.option import COMMON, DRAWING, FIRST, option
from lora_train.config.registered import Section

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class GenerateOptions(Section, section="generate"):
    """What is drawn, with what, and where it goes."""

    prompt: str = option(
        "",
        "Prompt",
        "what to draw, with the tags of LoRAs",
        DRAWING,
        FIRST,
        flags=("prompt",),
    )
    negative: str = option("", "Negative prompt", "what not to draw", DRAWING, COMMON, metavar="TEXT")
    model: str = option(
        "",
        "Base model",
        "base model",
        DRAWING,
        FIRST,
        unset="the one that the LoRA was trained on, else the last used, else the demo's",
        metavar="PATH",
    )
    lora_dir: str = option(
        "",
        "Folder of LoRAs",
        "folder of LoRAs",
        DRAWING,
        unset="the WebUI's, else lora-train-data/loras",
        flags=("--dir",),
        metavar="FOLDER",
    )
    allow_missing: bool = option(
        False,
        "Allow missing LoRAs",
        "make the pictures without a LoRA that is missing or does not fit",
        DRAWING,
    )
    seed: int = option(1, "Seed", "seed of the first picture", DRAWING, COMMON, range=(0, MAX_SEED), metavar="N")
    count: int = option(1, "Pictures", "number of pictures", DRAWING, COMMON, range=(1, 1000), metavar="N")
    steps: int = option(20, "Steps", "sampling steps", DRAWING, COMMON, range=(1, 1000), metavar="N")
    guidance: float | None = option(
        None,
        "Guidance",
        "guidance scale (CFG)",
        DRAWING,
        COMMON,
        range=(0, 100),
        unset="the usual one of the base model's family",
        metavar="SCALE",
    )
    v_parameterization: bool | None = option(
        None,
        "Predicts v",
        "whether the base model is a v-prediction model",
        DRAWING,
        unset="read from the model's files, else usual for its family",
    )
    output: str = option(
        "",
        "Output",
        "file to write, or an existing folder; a number is added where such a file exists",
        DRAWING,
        unset="picture.png in lora-train-data/pictures",
        metavar="FILE_OR_FOLDER",
    )
    device: str = option("auto", "Device", "auto, cuda, cuda:1 ..., mps or cpu", DRAWING, metavar="DEVICE")
    offline: bool = option(
        False, "Download nothing", "download nothing (CLIP's tokenizer, where it is missing)", DRAWING
    )
