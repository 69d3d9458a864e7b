"""OneTrainer's presets (.json, August 2026) as our options; what one leaves out has OneTrainer's default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath, PureWindowsPath
from typing import Any

from lora_train.config.imported import Imported, as_text, number
from lora_train.presets.nested import Nested, prompt_line
from lora_train.presets.onetrainer_names import DEFAULTS, NOTED, OTHERS, OWN, PARTS

_FAMILIES = ("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_20", "STABLE_DIFFUSION_21", "STABLE_DIFFUSION_XL_10_BASE")
_SCHEDULES = {
    "constant": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_hard_restarts": "cosine_with_restarts",
    "rex": "rex",
}
_DTYPES = {"float_16": "fp16", "bfloat_16": "bf16", "float_32": "fp32", "tfloat_32": "fp32"}
_KINDS = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr", "OFT_2": "oft"}
_OPTIMIZERS = {
    "ADAMW_8BIT": "AdamW8bit",
    "LION_8BIT": "Lion8bit",
    "SCHEDULE_FREE_ADAMW": "AdamWScheduleFree",
    "SCHEDULE_FREE_SGD": "SGDScheduleFree",
    "DADAPT_ADA_GRAD": "DAdaptAdaGrad",
    "PRODIGY_PLUS_SCHEDULE_FREE": "ProdigyPlusScheduleFree",
}
"""Those whose name is not ours without its underscores."""
_ARGUMENTS = ("eps", "d_coef", "d0", "growth_rate", "decouple", "use_bias_correction", "safeguard_warmup", "momentum")
_ADAPTIVE = ("d_coef", "d0", "growth_rate", "decouple", "use_bias_correction", "safeguard_warmup")
_PROMPTS = {"n": "negative_prompt", "w": "width", "h": "height", "d": "seed", "s": "diffusion_steps", "l": "cfg_scale"}


def import_preset(data: Mapping[str, Any]) -> Imported:
    """The preset as our options, with the report."""
    given = Nested(data, DEFAULTS)
    _model(given)
    _data(given)
    _network(given)
    _rates(given)
    _loss(given)
    _saving(given)
    return given.rest(NOTED, lambda name: OTHERS if name.partition(".")[0] in PARTS else "")


def _model(given: Nested) -> None:
    if given.get("training_method") != "LORA":
        given.leave("training_method", "a LoRA is trained here.")
    if as_text(given.get("model_type")).startswith(_FAMILIES):
        given.differs("model_type", "is detected from the base model")
    else:
        given.leave("model_type", "models of this family cannot be trained here.")
    given.take("base_model_name", "pretrained_model_name_or_path")
    given.take("vae.model_name", "vae")
    if given.get("force_v_prediction") is True:
        given.put("force_v_prediction", "model.v_parameterization", True)
    if given.get("force_epsilon_prediction") is True:
        given.put("force_epsilon_prediction", "model.v_parameterization", False)
    skip = number(as_text(given.get("text_encoder_layer_skip")))
    if skip > 0:
        given.take("text_encoder_layer_skip", "clip_skip", skip + 1)
    given.leave("text_encoder_2_layer_skip", "SDXL's text encoders always use their penultimate layer.")
    given.choose("train_dtype", "train.mixed_precision", _DTYPES)
    if given.given("train_device"):
        given.take("train_device", "train.device")


def _data(given: Nested) -> None:
    used = _enabled(given.get("concepts"))
    if len(used) == 1:
        _concept(given, used[0])
    elif used:
        given.found.left["concepts"] = f"there are {len(used)}: write a dataset config for them (data.dataset_config)."
    else:
        given.differs("concept_file_name", "names a file with the folders of pictures; give data.folder")
    given.get("concept_file_name")
    given.take("aspect_ratio_bucketing", "enable_bucket")
    given.sizes("resolution", [side.strip() for side in as_text(given.get("resolution")).split(",")])
    given.take("batch_size", "train_batch_size")
    given.take("gradient_accumulation_steps", "gradient_accumulation_steps")
    given.take("text_encoder.dropout_probability", "caption_dropout_rate")
    given.take("masked_training", "masked_loss")
    if given.get("masked_training"):
        given.take("unmasked_weight", "train.unmasked_weight")
        given.take("normalize_masked_area_loss", "train.normalize_masked_area_loss")
        given.leave("unmasked_probability", "masks always count here.")
    given.leave("masked_prior_preservation_weight", "it is not available yet.")
    for name in ("unmasked_weight", "unmasked_probability", "normalize_masked_area_loss"):
        given.get(name)


def _enabled(items: Any) -> list[dict[str, Any]]:
    items = items if isinstance(items, list) else []
    return [one for one in items if isinstance(one, dict) and one.get("enabled", True)]


def _concept(given: Nested, concept: dict[str, Any]) -> None:
    """The folder of pictures and what is done to them."""
    one = Nested(
        concept, {"image.enable_crop_jitter": True, "text.keep_tags_count": 1, "balancing": 1.0, "loss_weight": 1.0}
    )
    one.take("path", "train_data_dir")
    one.take("image.enable_random_flip", "flip_aug")
    one.take("text.enable_tag_shuffling", "shuffle_caption")
    if one.get("text.enable_tag_shuffling"):
        one.take("text.keep_tags_count", "keep_tokens")
    one.get("text.keep_tags_count")
    if one.values.get("balancing_strategy", "REPEATS") == "REPEATS" and number(as_text(one.get("balancing"))) >= 1:
        one.take("balancing", "data.repeats")
    noted = dict.fromkeys(
        ("name", "seed", "type", "text.prompt_source", "text.tag_delimiter", "balancing_strategy"), OWN
    )
    noted |= {"enabled": OWN, "image.enable_crop_jitter": "is not done here"}
    found = one.rest(noted, lambda name: "" if name.partition(".")[0] != "concept_stats" else OWN)
    off = {name: why for name, why in found.left.items() if name.endswith("_strength") or name.endswith("_mode")}
    found.left = {name: why for name, why in found.left.items() if name not in off}
    for ours, theirs in ((given.found.taken, found.taken), (given.found.left, found.left)):
        ours |= {f"concepts: {name}": text for name, text in theirs.items()}
    given.found.values |= found.values


def _network(given: Nested) -> None:
    kind = _KINDS.get(as_text(given.get("peft_type")))
    if kind is None:
        given.leave("peft_type", "this kind is not supported yet; lora is trained instead.")
    elif kind != "lora":
        given.put("peft_type", "network.kind", kind)
    rank = {"lokr": "lokr_dim", "oft": "oft_block_size"}.get(kind or "", "lora_rank")
    given.take(rank, "network_dim")
    if kind != "oft":
        given.take("lora_alpha", "network_alpha")
    decomposed = "lokr_weight_decompose" if kind == "lokr" else "lora_decompose"
    if given.get(decomposed) and kind != "oft":
        given.put(decomposed, "network.dora_wd", True)
        axis = "lokr_dora_on_output" if kind == "lokr" else "lora_decompose_output_axis"
        given.put(axis, "network.wd_on_output", bool(given.get(axis)))
    if kind == "lokr":
        given.take("lokr_decompose_both", "decompose_both")
        given.take("lokr_decompose_factor", "factor")
        given.take("lokr_use_tucker", "use_tucker")
        given.take("lokr_full_matrix", "full_matrix")
    elif kind == "oft":
        given.leave("oft_block_share", "it is not available yet.")
        given.take("oft_scaled", "rescaled")
    for name in [name for name in given.values if name.startswith(("lora_", "lokr_", "oft_", "dropout"))]:
        if name not in ("lora_model_name", "lora_weight_dtype", "dropout_probability"):
            given.get(name)  # of the other kinds
    given.take("lora_model_name", "network_weights")
    given.take("dropout_probability", "network_dropout")
    _layers(given, kind or "lora", rank)
    _trained(given)


def _layers(given: Nested, kind: str, rank: str) -> None:
    """Which modules are trained: attentions and their feed-forward layers are the usual ones here."""
    preset = as_text(given.get("layer_filter_preset"))
    if preset == "full" and not as_text(given.get("layer_filter")):
        if kind in ("lora", "loha", "lokr"):
            given.locon(given.get(rank), given.get("lora_alpha"))
            name = "layer_filter_preset" if given.given("layer_filter_preset") else "layer_filter_preset (its default)"
            given.found.differs[name] = "= full: the convolutions are trained as well (network.conv_dim)"
    elif preset != "attn-mlp":
        given.leave("layer_filter_preset", "attentions and their feed-forward layers are trained.")
        given.leave("layer_filter", "write it as network.network_rules.")
    given.get("layer_filter"), given.get("layer_filter_regex")


def _trained(given: Nested) -> None:
    """What is trained of the base model, and with which rates; a part without one has the general rate."""
    general = given.get("learning_rate")
    texts = [f"text_encoder{end}" for end in ("", "_2") if f"text_encoder{end}.train" in {*given.values, *DEFAULTS}]
    if "XL" not in as_text(given.get("model_type")):
        texts = texts[:1]
        for name in ("train", "learning_rate", "stop_training_after", "stop_training_after_unit"):
            given.get(f"text_encoder_2.{name}")
    if not given.get("unet.train"):
        given.put("unet.train", "network.network_train_text_encoder_only", True)
    trained = [text for text in texts if given.get(f"{text}.train")]
    if not trained:
        given.put(f"{texts[0]}.train", "network.network_train_unet_only", True)
    given.take("learning_rate", "learning_rate")
    given.take("unet.learning_rate", "unet_lr")
    for text in trained:
        own = {"text_encoder": "text_encoder_lr1", "text_encoder_2": "text_encoder_lr2"}
        given.take(
            f"{text}.learning_rate",
            own[text] if len(texts) > 1 else "text_encoder_lr",
            given.get(f"{text}.learning_rate") or general,
        )
    for text in texts:
        if len(texts) > 1 and text not in trained and trained:
            given.put(f"{text}.train", f"train.text_encoder_lr{texts.index(text) + 1}", 0.0)
        if as_text(given.get(f"{text}.stop_training_after_unit")) == "STEP":
            given.take(f"{text}.stop_training_after", "stop_text_encoder_training")
        elif as_text(given.get(f"{text}.stop_training_after_unit")) != "NEVER":
            given.leave(f"{text}.stop_training_after", "give it in steps (train.stop_text_encoder_training).")
        given.get(f"{text}.learning_rate"), given.get(f"{text}.stop_training_after")
    given.get("unet.stop_training_after_unit")
    given.leave("unet.stop_training_after", "the UNet is trained to the end here.")


def _rates(given: Nested) -> None:
    given.take("epochs", "max_train_epochs")
    if as_text(given.get("learning_rate_scheduler")) == "COSINE_WITH_RESTARTS":
        given.put("learning_rate_scheduler", "train.lr_scheduler", "cosine_with_restarts")
        given.found.differs["learning_rate_scheduler"] = "rises again in a wave there; here each cycle starts anew"
    else:
        given.choose("learning_rate_scheduler", "train.lr_scheduler", _SCHEDULES)
    if "RESTARTS" in as_text(given.get("learning_rate_scheduler")):
        given.take("learning_rate_cycles", "lr_scheduler_num_cycles")
    given.get("learning_rate_cycles")
    given.take("learning_rate_min_factor", "lr_scheduler_min_lr_ratio")
    warmup = number(as_text(given.get("learning_rate_warmup_steps")))
    if warmup == warmup and warmup >= 0:
        # counted in micro-batches there; up to 1 a share of all steps
        micro = number(as_text(given.get("gradient_accumulation_steps"))) or 1
        steps = float(int(warmup / max(1.0, micro))) if warmup > 1 else min(warmup, 0.999)
        given.put("learning_rate_warmup_steps", "train.lr_warmup_steps", steps)
    if as_text(given.get("learning_rate_scaler")) != "NONE":
        given.leave("learning_rate_scaler", "multiply the learning rates yourself.")
    given.take("clip_grad_norm", "max_grad_norm")
    word = as_text(given.get("optimizer.optimizer"))
    rates = (
        "train.learning_rate",
        "train.unet_lr",
        "train.text_encoder_lr",
        "train.text_encoder_lr1",
        "train.text_encoder_lr2",
    )
    given.take("optimizer.weight_decay", "train.weight_decay")
    given.optimizer("optimizer.optimizer", _OPTIMIZERS.get(word, word.replace("_", "")), _arguments(given, word), rates)
    if as_text(given.get("ema")) != "OFF":
        given.leave("ema", "it is not available yet.")


def _arguments(given: Nested, optimizer: str) -> list[str]:
    """The optimizer's own arguments, in sd-scripts' form."""
    found, betas = [], [given.get(f"optimizer.beta{number}") for number in (1, 2)]
    if None not in betas and not optimizer.startswith(("SGD", "SCHEDULE_FREE_SGD", "RMSPROP", "ADAFACTOR")):
        found.append(f"betas={betas[0]},{betas[1]}")
    adaptive = optimizer.startswith(("PRODIGY", "DADAPT"))
    for name in _ARGUMENTS:
        value = given.get(f"optimizer.{name}")
        if (
            value not in (None, False, "")
            and (adaptive or name not in _ADAPTIVE)
            and (name != "momentum" or optimizer == "SGD")
        ):
            found.append(f"{name}={value}")
    return found


def _loss(given: Nested) -> None:
    strengths = {"l2": "mse_strength", "l1": "mae_strength", "huber": "huber_strength"}
    used = {loss: name for loss, name in strengths.items() if number(as_text(given.get(name))) > 0}
    if len(used) == 1 and number(as_text(given.get("log_cosh_strength") or 0)) == 0:
        ((loss, name),) = used.items()
        given.put(name, "train.loss_type", loss)
        if number(as_text(given.get(name))) != 1:
            given.found.differs[name] = "is 1 here; the learning rate says how much a step changes"
        if loss == "huber":
            given.found.differs["huber_delta"] = "is another threshold than train.huber_c, whose default is used"
    else:
        given.found.left["mse_strength"] = "several losses at once are not available yet; l2 is used."
    given.get("huber_delta"), given.get("vb_loss_strength")
    weighting = as_text(given.get("loss_weight_fn"))
    strength = given.get("loss_weight_strength")
    if weighting == "MIN_SNR_GAMMA":
        given.take("loss_weight_fn", "min_snr_gamma", strength)
    elif weighting == "P2":
        given.take("loss_weight_fn", "train.p2_gamma", strength)
    elif weighting == "DEBIASED_ESTIMATION":
        given.put("loss_weight_fn", "train.debiased_estimation_loss", True)
    elif weighting != "CONSTANT":
        given.leave("loss_weight_fn", "it is not available yet.")
    if as_text(given.get("loss_scaler")) != "NONE":
        given.leave("loss_scaler", "multiply the learning rates instead.")
    given.take("offset_noise_weight", "noise_offset")
    given.leave("generalized_offset_noise", "it is not available yet.")
    given.leave("perturbation_noise_weight", "it is not available yet.")
    given.take("rescale_noise_scheduler_to_zero_terminal_snr", "zero_terminal_snr")
    _timesteps(given)


def _timesteps(given: Nested) -> None:
    for name, path in (("min_noising_strength", "train.min_timestep"), ("max_noising_strength", "train.max_timestep")):
        share = number(as_text(given.get(name)))
        if share == share and given.given(name):
            given.take(name, path, int(1000 * share))
    distribution = as_text(given.get("timestep_distribution"))
    if distribution == "LOGIT_NORMAL":
        given.put("timestep_distribution", "train.timestep_sampling", "logit_normal")
        given.take("noising_bias", "train.logit_mean")
        given.take("noising_weight", "train.logit_std", number(as_text(given.get("noising_weight"))) + 1)
    elif distribution != "UNIFORM":
        given.leave("timestep_distribution", "it is not available yet.")
    given.get("noising_bias"), given.get("noising_weight")
    if number(as_text(given.get("timestep_shift"))) != 1:
        given.leave("timestep_shift", "it is not available yet.")
    given.leave("dynamic_timestep_shifting", "it is not available yet.")


def _saving(given: Nested) -> None:
    target = as_text(given.get("output_model_destination"))
    if target:
        path = PureWindowsPath(target) if "\\" in target else PurePath(target)
        given.put("output_model_destination", "save.output_name", path.stem if path.suffix else path.name)
        if str(path.parent) != ".":
            given.found.values["save.output_dir"] = str(path.parent)
            given.found.taken["output_model_destination: folder"] = "save.output_dir"
    if as_text(given.get("output_model_format")) not in ("", "SAFETENSORS", "KOHYA_LORA", "LEGACY_SAFETENSORS"):
        given.leave("output_model_format", "it is always safetensors here.")
    given.choose("output_dtype", "save.save_precision", _DTYPES)
    for name, options in (
        ("save_every", {"STEP": "save_every_n_steps", "EPOCH": "save_every_n_epochs"}),
        ("backup_after", {"MINUTE": "save.save_state_every_n_minutes"}),
        ("sample_after", {"STEP": "sample_every_n_steps", "EPOCH": "sample_every_n_epochs"}),
    ):
        unit = as_text(given.get(f"{name}_unit"))
        if unit in options:
            given.take(name, options[unit]) if given.given(name) or unit != DEFAULTS.get(f"{name}_unit") else None
        elif unit not in ("NEVER", DEFAULTS.get(f"{name}_unit")):
            given.leave(name, f"it cannot be given in this unit here ({unit.lower()}).")
        given.get(name)
    samples = _enabled(given.get("samples"))
    if samples:
        given.put("samples", "preview.prompts", tuple(prompt_line(one, _PROMPTS) for one in samples))
    elif given.given("sample_definition_file_name"):
        given.differs("sample_definition_file_name", "names a file with prompts; give preview.prompts")
    given.get("sample_definition_file_name")
