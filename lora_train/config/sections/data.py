"""The base model and the pictures."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.option import BASICS, COMMAS, COMMON, DATA, FIRST, SOURCES, STEPS, option
from lora_train.config.registered import Section
from lora_train.config.sections.in_training import CaptionOptions
from lora_train.config.usual import DEFAULT_REPEATS, USUAL
from lora_train.records.family import CLIP_SKIP, DIFFUSION


@dataclass(frozen=True)
class ModelOptions(Section, section="model"):
    """The base model."""

    path: str = option(
        "",
        "Base model",
        "base model: .safetensors, .ckpt or diffusers folder",
        BASICS,
        FIRST,
        unset="the WebUI's current checkpoint",
        flags=("--model",),
        metavar="PATH",
        kohya=("pretrained_model_name_or_path",),
    )
    clip_skip: int = option(
        1,
        "Clip skip",
        "text-encoder layer whose output is used, counted from the last; fixed for SDXL",
        DATA,
        range=(1, 12),
        kohya=("clip_skip",),
        needs=CLIP_SKIP,
    )
    v_parameterization: bool | None = option(
        None,
        "V-prediction",
        "whether the base model is a v-prediction model",
        DATA,
        unset="read from the model's files, else usual for its family",
        kohya=("v_parameterization",),
        needs=DIFFUSION,
    )


@dataclass(frozen=True)
class DataOptions(CaptionOptions, Section, section="data"):
    """The pictures and how they become batches."""

    folder: str = option(
        "",
        "Folder of pictures",
        "folder of pictures",
        BASICS,
        FIRST,
        flags=("--input",),
        metavar="FOLDER",
        kohya=("train_data_dir",),
    )
    reg_data_dir: str = option(
        "",
        "Regularisation folder",
        "folder of regularisation pictures: of the class, without the subject and the tag",
        SOURCES,
        unset="the folder reg of a kohya project, else none",
        metavar="FOLDER",
        kohya=("reg_data_dir",),
    )
    concept_weights: tuple[str, ...] = option(
        (),
        "Weights of concepts",
        "factors on the loss of the pictures of single concepts: sara=1,hat=0.5",
        SOURCES,
        metavar="CONCEPT=WEIGHT",
        written=COMMAS,
    )
    validation_split: float = option(
        0.0,
        "Validation split",
        "pictures that are held out for validation and not trained on: a share below 1, or their number; 0: none",
        SOURCES,
        range=(0, 1_000_000),
        metavar="SHARE",
        kohya=("validation_split",),
        metadata="ss_validation_split",
    )
    validation_seed: int | None = option(
        None,
        "Validation seed",
        "seed of the choice which pictures are held out",
        SOURCES,
        range=(0, 2**63 - 1),
        unset="the run's seed",
        metavar="N",
        kohya=("validation_seed",),
        metadata="ss_validation_seed",
    )
    in_json: str = option(
        "",
        "Metadata file",
        "kohya's metadata .json or an imagefolder's metadata.jsonl: train only on the pictures it names, below the "
        "folder of pictures",
        SOURCES,
        metavar="FILE",
        kohya=("in_json",),
    )
    dataset_config: str = option(
        "",
        "Dataset config",
        "kohya's dataset config (TOML or JSON), in place of a folder of pictures",
        SOURCES,
        metavar="FILE",
        kohya=("dataset_config",),
    )
    tag: str = option(
        "",
        "Tag word",
        "activation tag(s), put in front of every caption",
        BASICS,
        FIRST,
        kohya=("caption_prefix",),
    )
    resolution: int | None = option(
        None,
        "Resolution",
        "training resolution in pixels: a bucket has about the area of a square with this side",
        DATA,
        COMMON,
        range=(64, 4096),
        unset="the base model's",
        metavar="PIXELS",
        kohya=("resolution",),
    )
    height: int | None = option(
        None,
        "Height",
        "height in pixels of pictures that are not square; the resolution is then their width. With buckets only the "
        "area counts",
        DATA,
        range=(64, 4096),
        unset="the resolution",
        metavar="PIXELS",
    )
    more_resolutions: tuple[int, ...] = option(
        (),
        "Further resolutions",
        "resolutions at which every picture is trained as well: 768,1024",
        DATA,
        metavar="PIXELS,...",
    )
    repeats: int | None = option(
        None,
        "Repeats",
        "repeats of each picture per epoch, unless its folder's name (N_concept) sets them",
        STEPS,
        range=(1, 100_000),
        unset=str(DEFAULT_REPEATS),
        metavar="N",
        kohya=("dataset_repeats",),
    )
    train_batch_size: int | None = option(
        None,
        "Batch size",
        "pictures per step",
        STEPS,
        COMMON,
        range=(1, 1024),
        unset=f"by the base model, usually {USUAL.batch}",
        flags=("--batch",),
        metavar="N",
        kohya=("train_batch_size",),
        metadata="ss_batch_size_per_device",
    )
    enable_bucket: bool = option(
        True,
        "Aspect-ratio buckets",
        "keep each picture's aspect ratio; off: crop all pictures to squares",
        DATA,
        kohya=("enable_bucket",),
        metadata="ss_enable_bucket",
    )
    min_bucket_reso: int | None = option(
        None,
        "Shortest bucket side",
        "shortest side of a bucket",
        DATA,
        range=(8, 8192),
        unset="half the resolution",
        metavar="PIXELS",
        kohya=("min_bucket_reso",),
        metadata="ss_min_bucket_reso",
    )
    max_bucket_reso: int | None = option(
        None,
        "Longest bucket side",
        "longest side of a bucket",
        DATA,
        range=(8, 8192),
        unset="twice the resolution",
        metavar="PIXELS",
        kohya=("max_bucket_reso",),
        metadata="ss_max_bucket_reso",
    )
    bucket_reso_steps: int = option(
        64,
        "Bucket step",
        "bucket sides are multiples of this",
        DATA,
        range=(8, 1024),
        metavar="PIXELS",
        kohya=("bucket_reso_steps",),
    )
    bucket_no_upscale: bool = option(
        False,
        "Never upscale pictures",
        "never upscale small pictures to the size of a bucket",
        DATA,
        flags=("--no-upscale",),
        kohya=("bucket_no_upscale",),
        metadata="ss_bucket_no_upscale",
    )
    flip_aug: bool = option(
        False,
        "Flip augmentation",
        "also train on horizontally flipped pictures",
        DATA,
        flags=("--flip",),
        kohya=("flip_aug",),
        metadata="ss_flip_aug",
    )
    mask_folder: str = option(
        "",
        "Folder of masks",
        "folder of masks with the pictures' relative paths; white areas are trained",
        SOURCES,
        unset="masks of the operation segment, else the pictures' alpha",
        metavar="FOLDER",
    )
    read_npz: bool = option(
        False,
        "Read .npz latents",
        "use the latents cached in sd-scripts' .npz files beside the pictures, if they fit",
        SOURCES,
    )
    write_npz: bool = option(
        False, "Write .npz latents", "cache latents in sd-scripts' .npz files beside the training pictures", SOURCES
    )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height that buckets have the area of, in pixels; 0 where none is chosen yet."""
        return self.resolution or 0, self.height or self.resolution or 0

    @property
    def batch_size(self) -> int:
        """Pictures in a micro-batch; 1 if none is chosen yet."""
        return self.train_batch_size or 1
