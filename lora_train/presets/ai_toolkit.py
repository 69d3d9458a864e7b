"""ai-toolkit's configs (.yaml, .json, August 2026) as our options. Names that one leaves out have ai-toolkit's
defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_train.config.imported import Imported, as_text, number
from lora_train.presets.nested import Nested, prompt_line

DEFAULTS: dict[str, Any] = {
    "network.type": "lora",
    "network.linear": 4,
    "network.linear_alpha": 1.0,
    "network.lokr_full_rank": True,
    "network.lokr_factor": -1,
    "network.transformer_only": True,
    "train.steps": 1000,
    "train.lr": 1e-6,
    "train.optimizer": "adamw",
    "train.lr_scheduler": "constant",
    "train.batch_size": 1,
    "train.gradient_accumulation": 1,
    "train.gradient_accumulation_steps": 1,
    "train.train_unet": True,
    "train.train_text_encoder": False,
    "train.dtype": "fp32",
    "train.max_grad_norm": 1.0,
    "train.loss_type": "mse",
    "train.noise_scheduler": "ddpm",
    "train.content_or_style": "balanced",
    "train.timestep_type": "sigmoid",
    "train.min_denoising_steps": 0,
    "train.max_denoising_steps": 999,
    "train.noise_multiplier": 1.0,
    "save.dtype": "float16",
    "save.save_every": 1000,
    "save.max_step_saves_to_keep": 5,
    "save.save_format": "safetensors",
    "sample.sample_every": 100,
    "sample.guidance_scale": 7,
    "sample.sample_steps": 20,
}
"""What ai-toolkit uses where a config says nothing, of the options that matter for a LoRA."""
_FLOW = "this is a model of another family, which cannot be trained here."
_DTYPES = {
    **dict.fromkeys(("fp16", "float16"), "fp16"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
    **dict.fromkeys(("fp32", "float32", "float"), "fp32"),
}
_SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts",
}
_MEMORY = "affects memory or speed only"
_OWN = "is ai-toolkit's own bookkeeping"
_ALWAYS = "is always on here"
_NOTED = {
    "type": _OWN,
    "performance_log_every": _OWN,
    "sqlite_db_path": _OWN,
    "logging.log_every": "the run's folder has all losses",
    "logging.verbose": _OWN,
    "logging.use_ui_logger": _OWN,
    "logging.project_name": _OWN,
    "logging.run_name": _OWN,
    "save.max_step_saves_to_keep": "all saved LoRAs are kept here",
    "save.hf_repo_id": _OWN,
    "save.hf_private": _OWN,
    "train.xformers": "is replaced by torch's own attention",
    "train.sdp": _ALWAYS,
    "train.attention_backend": "is replaced by torch's own attention",
    "train.unload_text_encoder": _MEMORY,
    "train.cache_text_embeddings": _ALWAYS,
    "train.refiner_lr": _OWN,
    "train.train_refiner": _OWN,
    "train.ema_config.ema_decay": "belongs to use_ema",
    "train.linear_timesteps": "is for models of other families",
    "train.timestep_type": "is for models of other families",
    "model.is_xl": "is detected from the base model",
    "model.is_v2": "is detected from the base model",
    "model.quantize": _MEMORY,
    "model.quantize_te": _MEMORY,
    "model.qtype": _MEMORY,
    "model.qtype_te": _MEMORY,
    "model.low_vram": _MEMORY,
    "model.dtype": _MEMORY,
    "model.te_dtype": _MEMORY,
    "model.vae_dtype": "is always fp32 here",
    "sample.sampler": "previews use one sampler here",
    "sample.sample_start_step": _OWN,
    "sample.format": "is always png here",
    "sample.ext": "is always png here",
    "sample.fps": _OWN,
    "sample.num_frames": _OWN,
}
_DATA_NOTED = {
    "cache_latents": _ALWAYS,
    "cache_latents_to_disk": _ALWAYS,
    "load_image_when_caching_latents": _OWN,
    "bucket_tolerance": "buckets are multiples of data.bucket_reso_steps here",
    "type": _OWN,
    "num_frames": _OWN,
}
_PROMPTS = {"n": "neg", "w": "width", "h": "height", "d": "seed", "s": "sample_steps", "l": "guidance_scale"}


def import_preset(data: Mapping[str, Any]) -> Imported:
    """The config as our options, with the report."""
    config = data["config"]
    processes = [one for one in config["process"] if isinstance(one, Mapping)]
    process = dict(processes[0]) if processes else {}
    datasets = process.pop("datasets", None)
    datasets = datasets if isinstance(datasets, list) else []
    samples = process.get("sample") if isinstance(process.get("sample"), Mapping) else {}
    given = Nested({**process, "name": config.get("name")}, DEFAULTS)
    if len(processes) > 1:
        given.found.left["process"] = f"there are {len(processes)}; the first one is taken."
    if data["job"] not in ("extension", "train") or "train" not in as_text(process.get("type", "trainer")):
        given.found.left["job"] = f"= {as_text(data['job'])}, {as_text(process.get('type'))}: a LoRA is trained here."
    given.take("name", "output_name")
    given.take("training_folder", "output_dir")
    given.take("trigger_word", "data.tag")
    given.take("device", "train.device")
    _model(given)
    _data(given, [one for one in datasets if isinstance(one, Mapping)])
    _network(given)
    _train(given)
    _saving(given, samples or {}, as_text(process.get("trigger_word")))
    return given.rest(_NOTED, lambda name: "")


def _model(given: Nested) -> None:
    given.take("model.name_or_path", "pretrained_model_name_or_path")
    given.take("model.is_v_pred", "v_parameterization")
    given.take("model.vae_path", "vae")
    given.take("model.lora_path", "train.no_such_option")
    for name in [name for name in given.values if name.startswith("model.is_")]:
        if name not in ("model.is_xl", "model.is_v2", "model.is_v_pred"):
            given.leave(name, _FLOW)
    if as_text(given.get("model.arch")) not in ("", "sd1", "sd2", "sdxl"):
        given.leave("model.arch", _FLOW)


def _data(given: Nested, datasets: list[Mapping[str, Any]]) -> None:
    if len(datasets) > 1:
        why = f"there are {len(datasets)}: write a dataset config for them (data.dataset_config)."
        given.found.left["datasets"] = why
    if len(datasets) != 1:
        return
    one = Nested(datasets[0], {"caption_ext": "txt", "buckets": True, "num_repeats": 1, "network_weight": 1.0})
    one.take("folder_path" if one.given("folder_path") else "dataset_path", "train_data_dir")
    one.take("caption_ext", "caption_extension")
    one.take("caption_dropout_rate", "caption_dropout_rate")
    one.take("shuffle_tokens", "shuffle_caption")
    one.take("keep_tokens", "keep_tokens")
    one.take("token_dropout_rate", "caption_tag_dropout_rate")
    one.take("num_repeats", "data.repeats")
    one.take("flip_x", "flip_aug")
    one.take("buckets", "enable_bucket")
    one.take("random_crop", "random_crop")
    one.take("alpha_mask", "masked_loss")
    sides = one.get("resolution")
    one.sizes(
        "resolution", [as_text(side) for side in sides] if isinstance(sides, list) and sides else [as_text(sides)]
    )
    if one.get("mask_path"):
        one.take("mask_path", "data.mask_folder")
        one.found.values["train.masked_loss"] = True
    one.take("mask_min_value", "train.unmasked_weight")
    found = one.rest(_DATA_NOTED, lambda name: "")
    for ours, theirs in (
        (given.found.taken, found.taken),
        (given.found.differs, found.differs),
        (given.found.left, found.left),
    ):
        ours |= {f"datasets: {name}": text for name, text in theirs.items()}
    given.found.values |= found.values


def _network(given: Nested) -> None:
    kind = as_text(given.get("network.type"))
    if kind == "lokr":
        given.put("network.type", "network.kind", "lokr")
        given.take("network.lokr_factor", "factor")
        if given.get("network.lokr_full_rank"):
            given.put("network.lokr_full_rank", "network.full_matrix", True)
            given.get("network.linear"), given.get("network.linear_alpha")
    elif kind == "dora":
        given.put("network.type", "network.dora_wd", True)
    elif kind not in ("lora", "locon"):
        given.leave("network.type", "this kind is not supported yet; lora is trained instead.")
    full = "network.full_matrix" in given.found.values
    if not full:
        rank = next(
            (f"network.{name}" for name in ("rank", "linear") if given.given(f"network.{name}")), "network.linear"
        )
        given.take(rank, "network_dim")
        alpha = (
            "network.linear_alpha"
            if given.given("network.linear_alpha") or not given.given("network.alpha")
            else "network.alpha"
        )
        given.take(alpha, "network_alpha")
    if given.get("network.conv"):
        given.take("network.conv", "conv_dim")
        given.take("network.conv_alpha", "conv_alpha", given.get("network.conv_alpha") or given.get("network.conv"))
    given.get("network.conv"), given.get("network.linear"), given.get("network.alpha"), given.get("network.rank")
    given.get("network.lokr_full_rank"), given.get("network.lokr_factor")
    given.take("network.dropout", "network_dropout")
    given.take("network.pretrained_lora_path", "network_weights")
    for name in [name for name in given.values if name.startswith("network.network_kwargs.")]:
        given.leave(name, "write it as network.network_rules.")


def _train(given: Nested) -> None:
    if as_text(given.get("train.noise_scheduler")) not in ("ddpm", "ddim", "euler", "euler_a", "dpmsolver"):
        given.leave("train.noise_scheduler", _FLOW)
    given.take("train.steps", "max_train_steps")
    given.take("train.batch_size", "train_batch_size")
    micro = (
        "train.gradient_accumulation"
        if given.given("train.gradient_accumulation")
        else "train.gradient_accumulation_steps"
    )
    given.take(micro, "gradient_accumulation_steps")
    given.get("train.gradient_accumulation"), given.get("train.gradient_accumulation_steps")
    given.take("train.lr", "learning_rate")
    given.take("train.unet_lr", "unet_lr")
    unet, text = bool(given.get("train.train_unet")), bool(given.get("train.train_text_encoder"))
    if not text:
        given.put("train.train_text_encoder", "network.network_train_unet_only", True)
        given.get("train.text_encoder_lr")
    else:
        given.take(
            "train.text_encoder_lr", "text_encoder_lr", given.get("train.text_encoder_lr") or given.get("train.lr")
        )
    if not unet:
        given.put("train.train_unet", "network.network_train_text_encoder_only", True)
    given.choose("train.dtype", "train.mixed_precision", _DTYPES)
    given.take("train.gradient_checkpointing", "gradient_checkpointing")
    given.take("train.max_grad_norm", "max_grad_norm")
    given.take("train.noise_offset", "noise_offset")
    given.take("train.min_snr_gamma", "min_snr_gamma")
    given.leave("train.snr_gamma", "give train.min_snr_gamma.")
    given.choose("train.loss_type", "train.loss_type", {"mse": "l2", "mae": "l1"})
    _bounds(given)
    if as_text(given.get("train.content_or_style")) != "balanced":
        given.leave("train.content_or_style", "all timesteps are drawn equally often; see train.timestep_sampling.")
    if given.get("train.ema_config.use_ema"):
        given.leave("train.ema_config.use_ema", "it is not available yet.")
    for name in ("noise_multiplier", "img_multiplier", "latent_multiplier", "reg_weight"):
        if number(as_text(given.get(f"train.{name}") or 1)) != 1:
            given.leave(f"train.{name}", "it is not available yet.")
    given.take("train.prompt_dropout_prob", "caption_dropout_rate")
    _schedule(given)
    arguments = [
        f"{name.rpartition('.')[2]}={as_text(given.get(name)).replace(', ', ',')}"
        for name in given.values
        if name.startswith("train.optimizer_params.") and not name.endswith(".weight_decay")
    ]
    given.take("train.optimizer_params.weight_decay", "train.weight_decay")
    rates = ("train.learning_rate", "train.unet_lr", "train.text_encoder_lr")
    given.optimizer("train.optimizer", as_text(given.get("train.optimizer")), arguments, rates)


def _bounds(given: Nested) -> None:
    """Counted from the noisy end there: step 0 is pure noise."""
    first, last = (number(as_text(given.get(f"train.{name}_denoising_steps"))) for name in ("min", "max"))
    if first > 0:
        given.take("train.min_denoising_steps", "train.max_timestep", int(1000 - first))
    if 0 < last < 999:
        given.take("train.max_denoising_steps", "train.min_timestep", int(999 - last))


def _schedule(given: Nested) -> None:
    given.choose("train.lr_scheduler", "train.lr_scheduler", _SCHEDULES)
    for name in [name for name in given.values if name.startswith("train.lr_scheduler_params.")]:
        if name.endswith(".num_warmup_steps"):
            given.take(name, "lr_warmup_steps")
        elif not name.endswith(".total_iters"):
            given.leave(name, "it is not available yet.")
        given.get(name)
    if "train.lr_warmup_steps" not in given.found.values:
        given.found.values["train.lr_warmup_steps"] = 0.0
        given.found.taken["train.lr_scheduler_params.num_warmup_steps (its default)"] = "train.lr_warmup_steps"


def _saving(given: Nested, sample: Mapping[str, Any], trigger: str) -> None:
    given.choose("save.dtype", "save.save_precision", _DTYPES)
    given.take("save.save_every", "save_every_n_steps")
    if as_text(given.get("save.save_format")) != "safetensors":
        given.leave("save.save_format", "it is always safetensors here.")
    given.leave("save.push_to_hub", "nothing is uploaded here.")
    if given.get("logging.use_wandb"):
        given.take("logging.use_wandb", "log_with", "wandb")
    given.get("train.skip_first_sample"), given.get("train.disable_sampling")
    raw = given.get("sample.samples") or given.get("sample.prompts")
    raw = raw if isinstance(raw, list) else []
    items = [one if isinstance(one, Mapping) else {"prompt": one} for one in raw]
    if not items or given.get("train.disable_sampling"):
        for name in [name for name in given.values if name.startswith("sample.")]:
            given.get(name)
        return
    general = {name: sample[name] for name in _PROMPTS.values() if sample.get(name) not in (None, False, "")}
    lines = []
    for place, one in enumerate(items):
        walked = (
            {"seed": general["seed"] + place}
            if sample.get("walk_seed") and isinstance(general.get("seed"), int)
            else {}
        )
        line = prompt_line({**general, **walked, **one}, _PROMPTS)
        lines.append(line.replace("[trigger]", trigger) if trigger else line)
    given.put("sample.samples" if given.get("sample.samples") else "sample.prompts", "preview.prompts", tuple(lines))
    given.take("sample.sample_every", "sample_every_n_steps")
    for name in (*_PROMPTS.values(), "walk_seed", "samples", "prompts"):
        given.get(f"sample.{name}")
