"""What is done to the pictures before they are trained on; defaults are SD.Next's where it has one."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.captioning_methods import CAPTIONERS, TAGGERS
from lora_train.config.choices import PREPARE_OPERATIONS
from lora_train.config.option import CAPTIONS, COMMAS, COMMON, OPERATIONS, SHELL, option
from lora_train.config.registered import Section
from lora_train.config.usual import DEFAULT_TARGET

_CAPTION = ("interrogate",)
_BODY = ("body",)


@dataclass(frozen=True)
class PrepareOptions(Section, section="prepare"):
    """What is done to the pictures before they are trained on."""

    operations: tuple[str, ...] = option(
        (),
        "Operations",
        f"what is done to the pictures, in this order: {', '.join(PREPARE_OPERATIONS)}",
        OPERATIONS,
        COMMON,
        choices=PREPARE_OPERATIONS,
        unset="none",
        flags=("--process",),
        metavar="LIST",
        written=COMMAS,
    )
    target: int | None = option(
        None,
        "Target size",
        "longest side in pixels of a prepared picture",
        OPERATIONS,
        COMMON,
        range=(64, 4096),
        unset=f"the resolution or the base model's own, else {DEFAULT_TARGET}",
        metavar="PIXELS",
    )
    min_size: int | None = option(
        None,
        "Least size",
        "leave out pictures both sides of which are shorter; 0: none",
        OPERATIONS,
        COMMON,
        range=(0, 16_384),
        unset="the target size",
        metavar="PIXELS",
    )
    background: str = option(
        "#c0c0c0",
        "Background colour",
        "colour of replaced backgrounds, borders of squares and what is transparent",
        OPERATIONS,
        metavar="#RRGGBB",
    )
    face_score: float = option(
        0.7,
        "How sure of a face",
        "confidence from which a detected face counts, 0 to 1",
        OPERATIONS,
        range=(0, 1),
        operations=("face",),
    )
    face_pad: float = option(
        0.1,
        "Room around a face",
        "room on each side of a face, as a share of its longer side",
        OPERATIONS,
        range=(0, 2),
        operations=("face",),
    )
    body_score: float = option(
        0.9,
        "How sure of a body",
        "confidence from which a detected body counts, 0 to 1",
        OPERATIONS,
        range=(0, 1),
        operations=_BODY,
    )
    body_pad: float = option(
        0.2,
        "Room around a body",
        "room around a body, as a share of its sides",
        OPERATIONS,
        range=(0, 2),
        operations=_BODY,
    )
    body_visibility: float = option(
        0.5,
        "Visibility of a body part",
        "visibility from which a part of a body counts as seen",
        OPERATIONS,
        range=(0, 1),
        operations=_BODY,
    )
    body_parts: int = option(
        15,
        "Parts of a body",
        "how many parts of a body, of 33, must be seen",
        OPERATIONS,
        range=(0, 33),
        metavar="N",
        operations=_BODY,
    )
    upscaler: str = option(
        "",
        "Upscaler",
        "name of the WebUI's upscaler",
        OPERATIONS,
        unset="its best",
        metavar="NAME",
        operations=("upscale",),
    )
    restore_weight: float = option(
        0.15,
        "Weight of CodeFormer",
        "weight of CodeFormer: 0 restores faces most, 1 least",
        OPERATIONS,
        range=(0, 1),
        operations=("restore",),
    )
    segment_threshold: float = option(
        0.1,
        "Threshold of a person",
        "probability from which a pixel belongs to the person",
        OPERATIONS,
        range=(0, 1),
        operations=("segment",),
    )
    max_blur: float = option(
        1.8,
        "Highest blur score",
        "leave out pictures with a higher blur score; 1.5 to 1.8 is usual at 512 pixels",
        OPERATIONS,
        COMMON,
        range=(-100, 100),
        flags=("--blur-score",),
        operations=("blur",),
    )
    min_range: float = option(
        0.15,
        "Lowest light score",
        "leave out pictures with a lower score of light and contrast; flat drawings have less than photos",
        OPERATIONS,
        COMMON,
        range=(0, 1),
        flags=("--range-score",),
        operations=("range",),
    )
    max_similarity: float = option(
        0.8,
        "Highest similarity",
        "leave out pictures more similar to a kept one than this; 1 keeps all",
        OPERATIONS,
        COMMON,
        range=(-1, 1),
        flags=("--similar-score",),
        operations=("similar",),
    )
    captioner: str = option(
        "blip",
        "Who writes captions",
        "what writes captions; blip is the WebUI's own",
        CAPTIONS,
        COMMON,
        choices=CAPTIONERS,
        operations=_CAPTION,
    )
    captioner_model: str = option(
        "",
        "Captioner's model",
        "model of the captioner transformers: a folder, or an id in the hub's cache",
        CAPTIONS,
        metavar="MODEL",
        operations=_CAPTION,
    )
    captioner_command: tuple[str, ...] = option(
        (),
        "Captioner's command",
        "command of the captioner command; {picture} in it becomes a picture's path: 'PROGRAM ... {picture}'",
        CAPTIONS,
        metavar="COMMAND",
        written=SHELL,
        operations=_CAPTION,
    )
    tagger: str = option(
        "deepbooru",
        "Who lists tags",
        "what lists tags; deepbooru is the WebUI's own",
        CAPTIONS,
        COMMON,
        choices=TAGGERS,
        operations=_CAPTION,
    )
    tagger_model: str = option(
        "",
        "Tagger's model",
        "model of the tagger wd14: a folder with model.onnx and selected_tags.csv, or the .onnx file",
        CAPTIONS,
        metavar="MODEL",
        operations=_CAPTION,
    )
    tagger_command: tuple[str, ...] = option(
        (),
        "Tagger's command",
        "command of the tagger command, as that of the captioner",
        CAPTIONS,
        metavar="COMMAND",
        written=SHELL,
        operations=_CAPTION,
    )
    tag_threshold: float = option(
        0.35,
        "Tag threshold",
        "probability from which wd14 lists a tag",
        CAPTIONS,
        range=(0, 1),
        metavar="P",
        operations=_CAPTION,
    )
    character_threshold: float = option(
        0.85,
        "Character threshold",
        "probability from which wd14 lists the name of a character",
        CAPTIONS,
        range=(0, 1),
        metavar="P",
        operations=_CAPTION,
    )
    tag_limit: int = option(
        5,
        "Tags at most",
        "keep at most this many tags for a picture; 0: all",
        CAPTIONS,
        range=(0, 1000),
        metavar="N",
        operations=_CAPTION,
    )
    tag_blacklist: tuple[str, ...] = option(
        (),
        "Tags never kept",
        "tags that are never kept; * stands for any characters",
        CAPTIONS,
        metavar="TAGS",
        written=COMMAS,
        operations=_CAPTION,
    )
    caption_template: str = option(
        "{tag}, {caption}, {tags}",
        "Captions are made of",
        "what a caption is made of: {tag}, {caption} and {tags}, in your order",
        CAPTIONS,
        metavar="TEXT",
        operations=_CAPTION,
    )
    recaption: bool = option(
        False,
        "Caption all pictures",
        "also caption pictures that have a caption file; the file itself stays",
        CAPTIONS,
        operations=_CAPTION,
    )
    backup: bool = option(
        False,
        "Keep replaced captions",
        "keep a caption that is replaced beside the new one, as .bak",
        CAPTIONS,
        operations=_CAPTION,
    )
    caption_device: str = option(
        "auto",
        "Captioner's device",
        "device of the models that caption: auto, cpu, cuda or cuda:N",
        CAPTIONS,
        metavar="DEVICE",
        operations=_CAPTION,
    )
    workers: int = option(
        0,
        "Pictures at the same time",
        "pictures prepared at the same time; 0: as many as there are cores",
        OPERATIONS,
        range=(0, 256),
        metavar="N",
    )
