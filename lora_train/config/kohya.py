"""The command-line names of kohya's sd-scripts: which of our flags they mean, and which we do not have.

Names are without dashes, as in sd-scripts (February 2026). The table of options has the names of our options; this
file has the others.
"""

from __future__ import annotations

from collections.abc import Iterator

from lora_train.config.table import Live, options
from lora_train.records.kinds import KINDS

_IN_LISTS = frozenset(("base_weights", "base_weights_multiplier"))
"""Names whose values sd-scripts writes differently; see ABSENT."""


def _flags() -> Iterator[tuple[str, str]]:
    for option in options():
        for name in option.about.kohya:
            if option.flags and name not in _IN_LISTS and f"--{name.replace('_', '-')}" != option.flags[0]:
                yield name, option.flags[0]
    yield "network_args", "--args"
    yield "config_file", "--config"


FLAGS = Live(lambda: dict(_flags()))
"""Flags of `train`. Names that differ from ours only in underscores need no entry."""

VALUES = Live(lambda: {one.flags[0]: one.about.kohya_values for one in options() if one.about.kohya_values})
"""sd-scripts' names of a flag's values. Case is ignored in every choice."""


def network_modules() -> dict[str, str]:
    """`--network_module` and our `--algo`; LyCORIS' own kinds are named with `--network_args algo=...`."""
    return {module: kind.name for kind in KINDS.values() for module in kind.modules}


_ALWAYS = "is always on here"
_MEMORY = "affects memory or speed only and is not available"
_LOSSES = "is not available: the run's folder has all losses, and --log-with logs them elsewhere"
_LAUNCH = "is an option of accelerate, and not needed here"
NOTED = {
    "cache_latents": _ALWAYS,
    "cache_latents_to_disk": _ALWAYS,
    "cache_text_encoder_outputs": _ALWAYS,
    "cache_text_encoder_outputs_to_disk": _MEMORY,
    "no_half_vae": _ALWAYS,
    "dim_from_weights": _ALWAYS,
    "save_state": _ALWAYS,
    "v2": "is detected from the base model",
    "sdpa": _ALWAYS,
    "xformers": "is replaced by torch's own attention",
    "mem_eff_attn": "is replaced by torch's own attention",
    "lowram": _MEMORY,
    "lowvram": _MEMORY,
    "highvram": _MEMORY,
    "max_data_loader_n_workers": _MEMORY,
    "persistent_data_loader_workers": _MEMORY,
    "vae_batch_size": _MEMORY,
    "skip_cache_check": _MEMORY,
    "text_encoder_batch_size": _MEMORY,
    "disable_mmap_load_safetensors": _MEMORY,
    "cache_info": _MEMORY,
    "blocks_to_swap": _MEMORY,
    "cpu_offload_checkpointing": _MEMORY,
    "fused_backward_pass": _MEMORY,
    "torch_compile": _MEMORY,
    "dynamo_backend": _MEMORY,
    "dynamo_mode": _MEMORY,
    "ddp_timeout": _MEMORY,
    "ddp_gradient_as_bucket_view": _MEMORY,
    "ddp_static_graph": _MEMORY,
    "num_cpu_threads_per_process": _LAUNCH,
    "num_machines": _LAUNCH,
    "gpu_ids": _LAUNCH,
    "main_process_port": _LAUNCH,
    "log_prefix": _LOSSES,
    "log_tracker_config": _LOSSES,
    "log_config": _LOSSES,
    "wandb_api_key": _LOSSES,
    "console_log_level": "is not available: --debug shows more",
    "console_log_file": "is not available: the run's folder has all messages",
    "console_log_simple": "is not available",
    "tokenizer_cache_dir": "is not available: tokenizers are found without it",
    "save_model_as": "is always safetensors here",
    "save_state_on_train_end": _ALWAYS,
}
"""Accepted without effect, since the LoRA would be the same; each with its message."""

ABSENT = {
    "caption_extension": "Captions are .txt or .caption files here.",
    "vae": "The base model's own is used.",
    "resume": "Use: lora-train resume RUN",
    "base_weights": "Give --merge-base FILE:STRENGTH.",
    "base_weights_multiplier": "Give --merge-base FILE:STRENGTH.",
    "save_n_epoch_ratio": "Give --save-every STEPS.",
    "save_last_n_epochs": "",
    "save_last_n_steps": "",
    "color_aug": "",
    "random_crop": "",
    "face_crop_aug_range": "The operation face crops faces: --process face.",
    "alpha_mask": "Give --masked-loss: it uses the pictures' alpha channel.",
    "conditioning_data_dir": "Give --masked-loss and --mask-folder.",
    "use_8bit_adam": "Give --optimizer adamw8bit.",
    "use_lion_optimizer": "Give --optimizer lion.",
    "lr_scheduler_args": "",
    "lr_scheduler_type": "Give --scheduler.",
    "full_fp16": "Give --precision.",
    "full_bf16": "Give --precision.",
    "fp8_base": "Give --base-precision fp8.",
    "deepspeed": "",
    "num_processes": "",
    "huggingface_repo_id": "",
    "huggingface_repo_type": "",
    "huggingface_path_in_repo": "",
    "huggingface_token": "",
    "huggingface_repo_visibility": "",
    "save_state_to_huggingface": "",
    "resume_from_huggingface": "",
    "async_upload": "",
    "no_metadata": "",
    "metadata_title": "",
    "metadata_author": "",
    "metadata_description": "",
    "metadata_license": "",
    "metadata_tags": "",
    "output_config": "Give --save-config FILE.",
    "debug_dataset": "Give --notrain.",
    "initial_epoch": "",
    "initial_step": "",
    "block_lr": "Give --rule, or --args down_lr_weight=...",
    "caption_extention": "Captions are .txt or .caption files here.",
    "caption_separator": "The parts of captions are separated by commas.",
    "save_last_n_epochs_state": "",
    "save_last_n_steps_state": "",
    "noise_offset_type": "",
    "lr_scheduler_timescale": "",
    "resize_interpolation": "",
    "fp8_base_unet": "Give --base-precision fp8.",
    "skip_until_initial_step": "",
}
"""Options that would change the LoRA and are not available here, each with what to do instead."""
SAME: dict[str, tuple[str, ...]] = {
    "caption_extension": (".txt", ".caption", "txt", "caption"),
    "caption_extention": (".txt", ".caption", "txt", "caption"),
    "caption_separator": (",",),
    "noise_offset_type": ("original",),
    "save_n_epoch_ratio": ("0",),
    "save_last_n_epochs": ("0",),
    "save_last_n_epochs_state": ("0",),
    "save_last_n_steps": ("0",),
    "save_last_n_steps_state": ("0",),
    "initial_epoch": ("0", "1"),
    "initial_step": ("0",),
    "num_processes": ("1",),
}
"""Values of ABSENT with which sd-scripts does the same as this program, and which are therefore accepted. An empty
value, which GUIs write for empty fields, is accepted for each of ABSENT."""
MAY_BE_EMPTY = frozenset(
    (
        "adaptive_noise_scale",
        "caption_dropout_every_n_epochs",
        "caption_tag_dropout_rate",
        "huber_c",
        "huber_scale",
        "huber_schedule",
        "ip_noise_gamma",
        "loss_type",
        "lr_decay_steps",
        "lr_scheduler_min_lr_ratio",
        "lr_scheduler_num_cycles",
        "lr_scheduler_power",
        "max_timestep",
        "max_token_length",
        "max_train_epochs",
        "min_timestep",
        "multires_noise_discount",
        "multires_noise_iterations",
        "prior_loss_weight",
        "token_warmup_min",
        "token_warmup_step",
        "validation_seed",
        "validation_split",
        "v_pred_like_loss",
    )
)
"""Options that count as not set if their value is empty or None, as GUIs write it."""
TAKES_NO_VALUE = frozenset(
    (
        "cache_latents",
        "cache_latents_to_disk",
        "cache_text_encoder_outputs",
        "cache_text_encoder_outputs_to_disk",
        "no_half_vae",
        "dim_from_weights",
        "save_state",
        "v2",
        "sdpa",
        "xformers",
        "mem_eff_attn",
        "lowram",
        "lowvram",
        "highvram",
        "persistent_data_loader_workers",
        "skip_cache_check",
        "disable_mmap_load_safetensors",
        "cache_info",
        "cpu_offload_checkpointing",
        "fused_backward_pass",
        "torch_compile",
        "ddp_gradient_as_bucket_view",
        "ddp_static_graph",
        "log_config",
        "console_log_simple",
        "save_state_on_train_end",
    )
)
"""The names in NOTED that take no value."""


def is_same(name: str, value: str) -> bool:
    """Whether sd-scripts' flag `name` (of SAME) with this value changes nothing here."""
    given = value.strip().casefold().replace(" ", "")
    return given in ("", "none") or any(given == one or _number(given) == _number(one) for one in SAME[name])


def _number(text: str) -> object:
    """A number, so that 1, 1.0 and 1e0 are the same; any other text equals nothing."""
    try:
        return float(text)
    except ValueError:
        return object()
