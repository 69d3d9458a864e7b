"""What is done to the pictures before they are trained on; defaults are SD.Next's if it has one."""

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
        f"operations on the pictures, run in this order: {', '.join(PREPARE_OPERATIONS)}",
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
        "longest side of a prepared picture, in pixels",
        OPERATIONS,
        COMMON,
        range=(64, 4096),
        unset=f"the resolution or the base model's own, else {DEFAULT_TARGET}",
        metavar="PIXELS",
    )
    min_size: int | None = option(
        None,
        "Minimum size",
        "leave out pictures with both sides shorter than this; 0: keep all",
        OPERATIONS,
        COMMON,
        range=(0, 16_384),
        unset="the target size",
        metavar="PIXELS",
    )
    background: str = option(
        "#c0c0c0",
        "Background colour",
        "colour of replaced backgrounds, of the borders of squares and of transparent areas",
        OPERATIONS,
        metavar="#RRGGBB",
    )
    face_score: float = option(
        0.7,
        "Face confidence",
        "minimum confidence of a detected face, 0 to 1",
        OPERATIONS,
        range=(0, 1),
        operations=("face",),
    )
    face_pad: float = option(
        0.1,
        "Face padding",
        "padding on each side of a face, as a share of its longer side",
        OPERATIONS,
        range=(0, 2),
        operations=("face",),
    )
    body_score: float = option(
        0.9,
        "Body confidence",
        "minimum confidence of a detected body, 0 to 1",
        OPERATIONS,
        range=(0, 1),
        operations=_BODY,
    )
    body_pad: float = option(
        0.2,
        "Body padding",
        "padding around a body, as a share of its sides",
        OPERATIONS,
        range=(0, 2),
        operations=_BODY,
    )
    body_visibility: float = option(
        0.5,
        "Body part visibility",
        "minimum visibility at which a body part counts as visible",
        OPERATIONS,
        range=(0, 1),
        operations=_BODY,
    )
    body_parts: int = option(
        15,
        "Visible body parts",
        "how many of the 33 body parts must be visible",
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
        "CodeFormer weight",
        "CodeFormer weight: 0 for the strongest effect on faces, 1 for the weakest",
        OPERATIONS,
        range=(0, 1),
        operations=("restore",),
    )
    segment_threshold: float = option(
        0.1,
        "Segmentation threshold",
        "minimum probability at which a pixel belongs to the person",
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
        "Captioner",
        "program or model that writes the captions; blip is the WebUI's own",
        CAPTIONS,
        COMMON,
        choices=CAPTIONERS,
        operations=_CAPTION,
    )
    captioner_model: str = option(
        "",
        "Captioner model",
        "model of the captioner transformers: a folder, or an id in the hub's cache",
        CAPTIONS,
        metavar="MODEL",
        operations=_CAPTION,
    )
    captioner_command: tuple[str, ...] = option(
        (),
        "Captioner command",
        "command line of the captioner command; {picture} is replaced by a picture's path: 'PROGRAM ... {picture}'",
        CAPTIONS,
        metavar="COMMAND",
        written=SHELL,
        operations=_CAPTION,
    )
    tagger: str = option(
        "deepbooru",
        "Tagger",
        "program or model that lists the tags; deepbooru is the WebUI's own",
        CAPTIONS,
        COMMON,
        choices=TAGGERS,
        operations=_CAPTION,
    )
    tagger_model: str = option(
        "",
        "Tagger model",
        "model of the tagger wd14: a folder with model.onnx and selected_tags.csv, or the .onnx file",
        CAPTIONS,
        metavar="MODEL",
        operations=_CAPTION,
    )
    tagger_command: tuple[str, ...] = option(
        (),
        "Tagger command",
        "command line of the tagger command, with {picture} as for the captioner",
        CAPTIONS,
        metavar="COMMAND",
        written=SHELL,
        operations=_CAPTION,
    )
    tag_threshold: float = option(
        0.35,
        "Tag threshold",
        "minimum probability of a tag that wd14 lists",
        CAPTIONS,
        range=(0, 1),
        metavar="P",
        operations=_CAPTION,
    )
    character_threshold: float = option(
        0.85,
        "Character threshold",
        "minimum probability of a character's name that wd14 lists",
        CAPTIONS,
        range=(0, 1),
        metavar="P",
        operations=_CAPTION,
    )
    tag_limit: int = option(
        5,
        "Maximum number of tags",
        "keep at most this many tags per picture; 0: all",
        CAPTIONS,
        range=(0, 1000),
        metavar="N",
        operations=_CAPTION,
    )
    tag_blacklist: tuple[str, ...] = option(
        (),
        "Tag blacklist",
        "tags that are never kept; * stands for any characters",
        CAPTIONS,
        metavar="TAGS",
        written=COMMAS,
        operations=_CAPTION,
    )
    caption_template: str = option(
        "{tag}, {caption}, {tags}",
        "Caption template",
        "template of a caption: {tag}, {caption} and {tags}, in any order",
        CAPTIONS,
        metavar="TEXT",
        operations=_CAPTION,
    )
    recaption: bool = option(
        False,
        "Caption all pictures",
        "also caption pictures that have a caption file already; the file itself is kept",
        CAPTIONS,
        operations=_CAPTION,
    )
    backup: bool = option(
        False,
        "Keep replaced captions",
        "keep a replaced caption as .bak beside the new one",
        CAPTIONS,
        operations=_CAPTION,
    )
    caption_device: str = option(
        "auto",
        "Captioning device",
        "device of the captioning models: auto, cpu, cuda or cuda:N",
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
