"""The metadata of a trained LoRA: kohya's `ss_*` and the `modelspec.*` fields, as the training really was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from lora_train.config import RunConfig, TrainOptions
from lora_train.config.network import network_arguments, network_module
from lora_train.config.table import options
from lora_train.config.training_methods import TABLES
from lora_train.errors import LoraTrainError
from lora_train.hashing import file_hash
from lora_train.records.families import of_version
from lora_train.version import __version__

_LEGACY_AT, _LEGACY_LENGTH = 0x100000, 0x10000

NOT_OFFERED: dict[str, object] = {
    "ss_adaptive_noise_scale": None,
    "ss_debiased_estimation": False,
    "ss_face_crop_aug_range": None,
    "ss_full_fp16": False,
    "ss_ip_noise_gamma": None,
    "ss_ip_noise_gamma_random_strength": False,
    "ss_lowram": False,
    "ss_multires_noise_iterations": None,
    "ss_noise_offset": None,
    "ss_noise_offset_random_strength": False,
    "ss_validate_every_n_epochs": None,
    "ss_validate_every_n_steps": None,
}
"""Fields of sd-scripts for options that were not used; used ones override them."""


@dataclass(frozen=True)
class TrainingFacts:
    """The facts about a run when it writes a file."""

    config: RunConfig
    """With all automatic choices filled in."""
    steps: int
    epoch: int
    batches_per_epoch: int
    pictures: int
    looks_per_epoch: int
    buckets: dict[tuple[int, int], int]
    folders: dict[str, tuple[int, int]]
    """Folder name to (repeats, number of pictures)."""
    tag_frequency: dict[str, dict[str, int]]
    base_version: str
    architecture: str
    implementation: str
    prediction_type: str
    zero_terminal_snr: bool
    base_name: str
    base_hashes: dict[str, str]
    started_at: float
    finished_at: float
    session: str
    trigger: str = ""
    """The trigger words."""
    reg_folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    """As `folders`, of the regularisation pictures."""
    reg_looks_per_epoch: int = 0
    held_out: int = 0
    """Pictures held out for validation."""
    extra: dict[str, str] = field(default_factory=dict)


def base_hashes(path: Path) -> dict[str, str]:
    """kohya's `ss_sd_model_hash` (legacy, 8 digits) and `ss_new_sd_model_hash` of a single-file base model.

    A diffusers folder has no such hash; kohya's scripts write "IsADirectory" for both.
    """
    if path.is_dir():
        return {"ss_sd_model_hash": "IsADirectory", "ss_new_sd_model_hash": "IsADirectory"}
    with path.open("rb") as file:
        file.seek(_LEGACY_AT)
        legacy = hashlib.sha256(file.read(_LEGACY_LENGTH)).hexdigest()[:8]
    return {"ss_sd_model_hash": legacy, "ss_new_sd_model_hash": file_hash(path)}


def lora_metadata(facts: TrainingFacts) -> dict[str, str]:
    """All fields as texts; `None` is written as "None", as kohya's scripts do."""
    fields: dict[str, object] = {
        **NOT_OFFERED,
        **_plain(facts.config),
        **_session(facts),
        **_data(facts),
        **_network(facts),
        **_training(facts),
        **_methods(facts.config),
        **facts.base_hashes,
        **_modelspec(facts),
        **facts.extra,
    }
    return {name: value if isinstance(value, str) else str(value) for name, value in fields.items()}


def session_of(path: Path) -> str:
    """The id of the run that wrote the LoRA file at `path`; "" if it does not say, or there is no file."""
    from lora_train.tensors import read_header

    try:
        metadata = read_header(path).get("__metadata__")
    except LoraTrainError:
        return ""
    return str(metadata.get("ss_session_id", "")) if isinstance(metadata, dict) else ""


def _plain(config: RunConfig) -> dict[str, object]:
    """The fields that are the value of one option."""
    return {option.about.metadata: option.of(config) for option in options() if option.about.metadata}


def _session(facts: TrainingFacts) -> dict[str, object]:
    family = of_version(facts.base_version)
    return {
        "ss_session_id": facts.session,
        "ss_training_started_at": facts.started_at,
        "ss_training_finished_at": facts.finished_at,
        "ss_training_comment": facts.config.save.training_comment or None,
        "ss_sd_scripts_commit_hash": f"lora-train {__version__}",
        "ss_sd_model_name": facts.base_name,
        "ss_base_model_version": facts.base_version,
        "ss_v2": False,
        **({} if family is None else family.metadata),
    }


def _data(facts: TrainingFacts) -> dict[str, object]:
    data = facts.config.data
    buckets = {
        str(i): {"resolution": list(size), "count": count}
        for i, (size, count) in enumerate(sorted(facts.buckets.items()))
    }
    return {
        "ss_num_train_images": facts.looks_per_epoch,
        "ss_num_reg_images": facts.reg_looks_per_epoch,
        "ss_num_validation_images": facts.held_out,
        "ss_num_batches_per_epoch": facts.batches_per_epoch,
        "ss_num_epochs": max(1, facts.epoch),
        "ss_epoch": facts.epoch,
        "ss_dataset_dirs": json.dumps(_dirs(facts.folders), ensure_ascii=False),
        "ss_reg_dataset_dirs": json.dumps(_dirs(facts.reg_folders), ensure_ascii=False),
        "ss_tag_frequency": json.dumps(facts.tag_frequency, ensure_ascii=False),
        "ss_bucket_info": json.dumps({"buckets": buckets}),
        "ss_resolution": f"({data.size[0]}, {data.size[1]})",
        "ss_total_batch_size": data.train_batch_size,
        "ss_color_aug": False,
        "ss_random_crop": False,
        "ss_max_token_length": None if data.max_token_length in (None, 75) else data.max_token_length,
        "ss_cache_latents": True,
    }


def _dirs(folders: dict[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    return {name: {"n_repeats": n, "img_count": count} for name, (n, count) in folders.items()}


def _network(facts: TrainingFacts) -> dict[str, object]:
    network = facts.config.network
    arguments = network_arguments(network)
    # a network that starts from the base's own weight is written as a difference of twice the rank
    ranks = 1 if network.init_lora_weights == "default" else 2
    fields: dict[str, object] = {
        "ss_network_module": network_module(network),
        "ss_network_dim": (network.network_dim or 0) * ranks,
        "ss_network_alpha": (network.network_alpha or 0.0) * ranks,
        "ss_network_dropout": network.network_dropout or None,
    }
    if network.base_weights:
        strengths = [*network.base_weights_multiplier, *[1.0] * len(network.base_weights)]
        merged = [[Path(path).name, strength] for path, strength in zip(network.base_weights, strengths)]
        fields["ss_base_weights"] = json.dumps(merged, ensure_ascii=False)
    return fields | ({"ss_network_args": json.dumps(arguments)} if arguments else {})


def _training(facts: TrainingFacts) -> dict[str, object]:
    train, network = facts.config.train, facts.config.network
    return {
        **dict.fromkeys(("ss_fp8_base", "ss_fp8_base_unet"), facts.config.train.base_precision == "fp8"),
        "ss_steps": facts.steps,
        "ss_lr_warmup_steps": None if train.lr_warmup_steps is None else int(train.lr_warmup_steps),
        "ss_unet_lr": None if network.network_train_text_encoder_only else train.unet_lr,
        "ss_text_encoder_lr": None if network.network_train_unet_only else _text_encoder_lr(train),
        "ss_preserve": train.preserve or None,
        "ss_mixed_precision": "no" if train.mixed_precision == "fp32" else train.mixed_precision,
        "ss_clip_skip": None if facts.config.model.clip_skip == 1 else facts.config.model.clip_skip,
        "ss_zero_terminal_snr": facts.zero_terminal_snr,
    }


def _methods(config: RunConfig) -> dict[str, object]:
    """The metadata of the methods that the run used."""
    return {
        key: value
        for table in TABLES
        for method in table.active(config)
        for key, value in method.metadata(config).items()
    }


def _text_encoder_lr(train: TrainOptions) -> float | list[float | None] | None:
    """One rate, or kohya's list of two if the encoders have their own."""
    own = (train.text_encoder_lr1, train.text_encoder_lr2)
    if own == (None, None):
        return train.text_encoder_lr
    return [train.text_encoder_lr if rate is None else rate for rate in own]


def _modelspec(facts: TrainingFacts) -> dict[str, object]:
    """Stability's ModelSpec 1.0.1, the fields that kohya's scripts write."""
    width, height = facts.config.data.size
    date = datetime.fromtimestamp(facts.finished_at, tz=timezone.utc)
    fields: dict[str, object] = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": facts.architecture,
        "modelspec.implementation": facts.implementation,
        "modelspec.implementation_version": f"lora-train/{__version__}",
        "modelspec.title": facts.config.save.output_name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.date": date.replace(tzinfo=None).isoformat(timespec="seconds"),
    }
    family = of_version(facts.base_version)
    predicts = family.predicting(facts.prediction_type).modelspec if family is not None else ""
    if predicts:
        fields["modelspec.prediction_type"] = predicts
    if facts.trigger:
        fields["modelspec.trigger_phrase"] = facts.trigger
    return fields
