"""The options of a run as frozen dataclasses; JSON goes in and comes out unchanged.

Names are kohya's (sd-scripts) where it has one: that is what people's presets say. `None` means
"choose for me"; `automatic.resolve` fills these in and says why.
"""

from __future__ import annotations

import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from lora_train.errors import LoraTrainError, Problem

VERSION = 1


@dataclass(frozen=True)
class ModelOptions:
    """The base model."""

    path: str = ""
    """A `.safetensors` or `.ckpt` file, or a diffusers folder."""
    clip_skip: int = 1
    """Which layer of the text encoder speaks, counted from the last (1). SDXL's is fixed."""
    v_parameterization: bool | None = None
    """Whether the base predicts v; None: as its files say, else as is usual for its family."""


@dataclass(frozen=True)
class DataOptions:
    """The pictures and how they become batches."""

    folder: str = ""
    in_json: str = ""
    """kohya's metadata (`.json`) or an imagefolder's `metadata.jsonl`: just the pictures that it names are used."""
    dataset_config: str = ""
    """kohya's dataset config (TOML or JSON), in place of `folder`."""
    tag: str = ""
    """Activation tag; goes first in every caption."""
    resolution: int | None = None
    """Side in pixels of a square picture with the area of a bucket."""
    repeats: int | None = None
    """How often a picture comes in an epoch, where its folder's name (`N_concept`) does not say."""
    train_batch_size: int | None = None
    enable_bucket: bool = True
    min_bucket_reso: int | None = None
    max_bucket_reso: int | None = None
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    flip_aug: bool = False
    shuffle_caption: bool = False
    keep_tokens: int = 0
    """So many comma-separated parts at the front of a caption stay in front when shuffled; the tag stays anyway."""
    caption_dropout_rate: float = 0.0
    mask_folder: str = ""
    """Masks at the pictures' relative paths, white where it counts; "" takes those of `segment`, else the alpha."""
    read_npz: bool = False
    """Take latents from sd-scripts' `.npz` files beside the pictures, where they fit."""
    write_npz: bool = False
    """Write such files."""


@dataclass(frozen=True)
class PrepareOptions:
    """What is done to the pictures before they are trained on; defaults are SD.Next's where it has one."""

    operations: tuple[str, ...] = ()
    """Which operations are on; they run in their fixed order. None: the pictures are used as they are."""
    target: int | None = None
    """Longest side in pixels of a finished picture; None means `data.resolution`, else the base model's own size."""
    min_size: int | None = None
    """A picture with both sides shorter is rejected; None means the target, 0 lets all pass."""
    background: str = "#c0c0c0"
    """What transparent parts, replaced backgrounds and the borders of squares are filled with."""
    face_score: float = 0.7
    """How sure the detector must be, 0 to 1."""
    face_pad: float = 0.1
    """Room on each side of a face, as a share of the longer side of its box."""
    body_score: float = 0.9
    body_pad: float = 0.2
    body_visibility: float = 0.5
    """From this visibility on a part of the body counts as seen."""
    body_parts: int = 15
    """So many parts (of 33) must be seen."""
    upscaler: str = ""
    """The host's upscaler by name; empty: its best."""
    restore_weight: float = 0.15
    """CodeFormer's weight; 0 restores most."""
    segment_threshold: float = 0.1
    """From this probability on a pixel belongs to the person."""
    max_blur: float = 1.8
    """The blur score above which a picture is rejected."""
    min_range: float = 0.15
    """The dynamic range score below which a picture is rejected."""
    max_similarity: float = 0.8
    """The similarity to a kept picture above which a picture is rejected."""
    captioner: str = "blip"
    """Who writes captions: `blip` (the host's), `transformers`, `command` or `none`."""
    captioner_model: str = ""
    """Of `transformers`: a folder, or the id of a model in the hub's cache."""
    captioner_command: tuple[str, ...] = ()
    """Of `command`: a program and its arguments; `{picture}` in one becomes a picture's path."""
    tagger: str = "deepbooru"
    """Who lists tags: `deepbooru` (the host's), `wd14`, `transformers`, `command` or `none`."""
    tagger_model: str = ""
    """Of `wd14`: a folder with `model.onnx` and `selected_tags.csv`, or the .onnx file."""
    tagger_command: tuple[str, ...] = ()
    tag_threshold: float = 0.35
    """From this probability on `wd14` lists a tag."""
    character_threshold: float = 0.85
    """The same for the names of characters."""
    tag_limit: int = 5
    """So many tags are kept; 0: all."""
    tag_blacklist: tuple[str, ...] = ()
    """Tags that are never kept; `*` stands for any characters."""
    caption_template: str = "{tag}, {caption}, {tags}"
    """How activation tag, caption and tags become one line."""
    recaption: bool = False
    """Whether pictures that have a caption file are captioned all the same; the file itself stays."""
    backup: bool = False
    """Whether a caption that gives way to a new one is kept beside it as `.bak`."""
    caption_device: str = "auto"
    """Where `transformers` and `wd14` compute: `auto`, `cpu`, `cuda` or `cuda:1`."""
    workers: int = 0
    """Pictures in work at the same time; 0: as many as the machine has cores."""


@dataclass(frozen=True)
class NetworkOptions:
    """The network that is trained."""

    kind: str = "lora"
    """`lora`, `loha`, `lokr`, `oft`, `boft`, `ia3`, `glora`, `full` or `norm`; see docs/networks.md."""
    network_dim: int | None = None
    network_alpha: float | None = None
    """Scale is alpha / dim; None (or 0) means half of `network_dim`."""
    conv_dim: int | None = None
    """Rank on 3x3 convolutions (LoCon); 0 leaves them out, None does too but for small bases."""
    conv_alpha: float | None = None
    """None (or 0) means half of `conv_dim`."""
    network_train_unet_only: bool = False
    network_train_text_encoder_only: bool = False
    dora_wd: bool = False
    """DoRA around lora, loha or lokr."""
    wd_on_output: bool = False
    """DoRA's norm is over output rows (the paper's); else over input columns, which the WebUI's Lora code reads."""
    rs_lora: bool = False
    """Scale is alpha / sqrt(dim)."""
    use_tucker: bool = False
    factor: int = -1
    decompose_both: bool = False
    full_matrix: bool = False
    unbalanced_factorization: bool = False
    constraint: float = 0.0
    rescaled: bool = False
    train_on_input: bool = False
    train_norm: bool = False
    """Also the UNet's norms, beside another kind."""
    init_lora_weights: str = "default"
    """`default`, `pissa` or `olora`."""
    network_dropout: float = 0.0
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    block_dims: tuple[int, ...] = ()
    """One dimension for each of the UNet's blocks, 25 for SD 1.x and 2.x, 23 for SDXL, as kohya counts them."""
    block_alphas: tuple[float, ...] = ()
    conv_block_dims: tuple[int, ...] = ()
    conv_block_alphas: tuple[float, ...] = ()
    down_lr_weight: str = ""
    """Factors on the rates of the down blocks: numbers, or `sine`, `cosine`, `linear`, `reverse_linear`, `zeros`."""
    mid_lr_weight: str = ""
    up_lr_weight: str = ""
    block_lr_zero_threshold: float = 0.0
    """Factors up to this leave a block out."""
    network_rules: tuple[str, ...] = ()
    """`PATTERN: dim=8 alpha=4 lr=1e-5 kind=lokr` or `PATTERN: off`; the first found in a module's name counts."""
    loraplus_lr_ratio: float | None = None
    """The up matrices' learning rate is so many times the others'."""
    loraplus_unet_lr_ratio: float | None = None
    loraplus_text_encoder_lr_ratio: float | None = None
    scale_weight_norms: float | None = None
    """Each network's change is held to this norm; 1 is usual."""
    network_weights: str = ""
    """A LoRA file to go on from, with its kinds and ranks."""
    network_adapter: str = ""
    """The one to take of several adapters that peft put into `network_weights` or into files of `base_weights`."""
    base_weights: tuple[str, ...] = ()
    """LoRA files that are merged into the base model before the training."""
    base_weights_multiplier: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrainOptions:
    """Steps, rates, noise and loss."""

    max_train_steps: int | None = None
    gradient_accumulation_steps: int = 1
    """Micro-batches per step; negative: as many as there are pictures."""
    learning_rate: float | None = None
    unet_lr: float | None = None
    text_encoder_lr: float | None = None
    text_encoder_lr1: float | None = None
    """Rate of the first text encoder of a base with two; None means `text_encoder_lr`."""
    text_encoder_lr2: float | None = None
    optimizer: str = "adamw"
    stop_text_encoder_training: int | None = None
    """Text encoders are trained for so many steps only."""
    weight_decay: float = 0.01
    lr_scheduler: str = "cosine"
    lr_warmup_steps: int | None = None
    max_grad_norm: float = 1.0
    """Gradient norm is clipped to this; 0 switches clipping off."""
    gradient_checkpointing: bool | None = None
    """Whether the UNet's activations are computed again in the backward pass in place of being kept: a step takes about
    twice as long and a fraction of the memory. None: where a GPU has too little for a step without."""
    min_snr_gamma: float | None = None
    """Hang et al. 2023 (arXiv 2303.09556); None weighs all timesteps alike."""
    noise_offset: float = 0.0
    zero_terminal_snr: bool | None = None
    """Lin et al. 2023 (arXiv 2305.08891), for bases that predict v; None: as the base was trained."""
    preserve: float | None = None
    """Share of each batch's pictures for which the base's own prediction is learned as well, under their captions
    without the tag: so the LoRA changes what is asked for by its tag and little else. 0: none."""
    masked_loss: bool = False
    """Whether the loss is weighted by the pictures' masks."""
    mixed_precision: str = "auto"
    """`auto`, `fp32`, `bf16` or `fp16`. Trained weights and optimizer are fp32 always."""
    seed: int = 42
    device: str = "auto"


@dataclass(frozen=True)
class SaveOptions:
    """The result and what is written on the way."""

    output_name: str = ""
    output_dir: str = ""
    overwrite: bool = False
    save_every_n_steps: int = 0
    save_every_n_epochs: int = 0
    save_state_every_n_minutes: float = 2.0
    """So often the state for a resume is saved, besides when the run is stopped; 0: only then."""
    save_precision: str = "fp16"
    training_comment: str = ""


@dataclass(frozen=True)
class PreviewOptions:
    """Pictures made while it trains."""

    prompts: tuple[str, ...] = ()
    sample_every_n_steps: int = 0
    """Also at the start and at the end, when there are prompts."""
    steps: int = 20
    guidance: float | None = None
    """None means the usual one of the base model's family."""
    seed: int = 1


@dataclass(frozen=True)
class RunConfig:
    """Everything a run needs to know."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    save: SaveOptions = field(default_factory=SaveOptions)
    preview: PreviewOptions = field(default_factory=PreviewOptions)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data with a version number."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunConfig:
        """The inverse of `to_dict`. Missing fields get their defaults.

        Raises LoraTrainError that names all unknown fields and wrong types together.
        """
        rest = dict(data)
        version = rest.pop("version", VERSION)
        if version != VERSION:
            raise LoraTrainError(
                f"this configuration has version {version!r}; this program reads version {VERSION}.",
                "version",
                "Update the extension.",
            )
        found: list[Problem] = []
        config = _build(cls, rest, "", found)
        if found:
            raise LoraTrainError.of(found)
        return config


T = TypeVar("T")


def _build(cls: type[T], data: Any, where: str, found: list[Problem]) -> T:
    """Make a dataclass from JSON data; problems are added to `found`, their fields left out."""
    if not isinstance(data, dict):
        found.append(Problem(f"must be a group of options, not {data!r}.", where))
        return cls()
    hints = typing.get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in data.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in known:
            found.append(Problem("there is no such option.", path, "Remove it or check its spelling."))
        elif is_dataclass(hints[name]):
            values[name] = _build(typing.cast(type, hints[name]), value, path, found)
        else:
            ok, values[name] = _fit(hints[name], value)
            if not ok:
                found.append(Problem(f"{value!r} is not {_describe(hints[name])}.", path))
                del values[name]
    return cls(**values)


def _fit(hint: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` is of the type `hint`, and the value in that type."""
    if isinstance(hint, types.UnionType):
        parts = typing.get_args(hint)
        if value is None:
            return type(None) in parts, None
        return _fit(next(part for part in parts if part is not type(None)), value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            return False, value
        items = [_fit(typing.get_args(hint)[0], item) for item in value]
        ok = all(fits for fits, _ in items)
        return ok, tuple(item for _, item in items) if ok else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), value


def _describe(hint: Any) -> str:
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is tuple:
        return {int: "a list of whole numbers", float: "a list of numbers"}.get(parts[0], "a list of texts")
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names[parts[0] if parts else hint]
