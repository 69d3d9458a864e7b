"""Checks of a configuration that need no files. They find every problem, not only the first."""

from __future__ import annotations

import math
import re
from typing import Any

from lora_train.config.concepts import concept_weights
from lora_train.config.network import network_problems
from lora_train.config.optimizer_args import optimizer_arguments
from lora_train.config.registered import Section
from lora_train.config.run import RunConfig
from lora_train.config.sections.in_training import CHUNK, MOST_TOKENS
from lora_train.config.table import Option, in_section, options
from lora_train.config.training_methods import OPTIMIZERS
from lora_train.errors import LoraTrainError, Problem
from lora_train.records.families import least_factor

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def problems(config: RunConfig) -> list[Problem]:
    """All problems of `config` that can be found without reading files."""
    found = _required(config) + _no_text(config)
    found += [one for option in options() for one in value_problems(option, option.of(config))]
    return found + _together(config) + _captioning(config)


def value_problems(option: Option, value: Any) -> list[Problem]:
    """What is wrong with a value of this option alone: its range, or its choices."""
    about, found = option.about, []
    if about.range and value is not None:
        low, high = about.range
        if not (math.isfinite(value) and low <= value <= high):
            fix = f"Give a value from {low:.10g} to {high:.10g}."
            found.append(Problem(f"{value:.10g} is out of range.", option.path, fix))
    if about.choices:
        fix = f"Choose from: {', '.join(about.choices)}."
        several = value if isinstance(value, tuple) else (value,)
        found += [Problem(f"{one!r} is not known.", option.path, fix) for one in several if one not in about.choices]
    return found


def section_problems(options: Section) -> list[Problem]:
    """The same for all options of one section."""
    return [
        one
        for option in in_section(options.section_name())
        for one in value_problems(option, getattr(options, option.name))
    ]


def check(config: RunConfig) -> None:
    """Raise LoraTrainError with all problems of `config`, if there are any."""
    found = problems(config)
    if found:
        raise LoraTrainError.of(found)


def name_problem(name: str) -> Problem | None:
    """What is wrong with a LoRA's name, if anything: it becomes a file name and a word in prompts."""
    where = "save.output_name"
    if not name.strip():
        return Problem("the LoRA needs a name.", where, "Give one, for example lora-sara.")
    if "/" in name or "\\" in name or ".." in name:
        return Problem(
            f"the name {name!r} contains '/', '\\' or '..'.",
            where,
            "Give a plain name; the folder is save.output_dir.",
        )
    if re.search(r'[<>:"|?*\x00-\x1f]', name) or name != name.strip() or name.endswith("."):
        return Problem(
            f"the name {name!r} cannot be a file name on every system.",
            where,
            'Leave out < > : " | ? *, and spaces or dots at the ends.',
        )
    if name.startswith(".") or _RESERVED.fullmatch(name) or len(name.encode("utf-8", "replace")) > 200:
        return Problem(f"the name {name!r} is reserved, hidden or too long.", where, "Choose another name.")
    return None


def _required(config: RunConfig) -> list[Problem]:
    found = []
    if not config.model.path:
        found.append(Problem("no base model is given.", "model.path", "Give a file or folder."))
    if not config.data.folder and not config.data.dataset_config:
        found.append(Problem("no folder of pictures is given.", "data.folder", "Give one."))
    if not config.save.output_dir:
        found.append(Problem("no folder for the LoRA is given.", "save.output_dir", "Give one."))
    problem = name_problem(config.save.output_name)
    return found + ([problem] if problem else []) + _tag(config.data.tag)


def _tag(tag: str) -> list[Problem]:
    """A tag of commas alone has no effect in a prompt, and captions have one line."""
    if not tag or (tag.strip(" ,.;:") and not re.search(r"[\x00-\x1f\x7f\u2028\u2029]", tag)):
        return []
    fix = "Give a word that the base model does not know, for example sks."
    return [Problem("the tag must be one or more words on a single line.", "data.tag", fix)]


def _no_text(config: RunConfig) -> list[Problem]:
    """Texts with bytes that are not UTF-8, such as names from an old archive: they cannot be written to a file."""
    found = []
    for option in options():
        value = option.of(config)
        if isinstance(value, str) and not value.isprintable() and re.search("[\ud800-\udfff]", value):
            found.append(Problem("contains characters that are not valid UTF-8 text.", option.path, "Rename it."))
    return found


def _together(config: RunConfig) -> list[Problem]:
    """Options that cannot be combined."""
    found = network_problems(config.network)
    network, data = config.network, config.data
    if network.network_train_unet_only and network.network_train_text_encoder_only:
        found.append(Problem("both 'UNet only' and 'text encoder only' are set.", "network", "Set one of them."))
    train = config.train
    if train.stop_text_encoder_training and network.network_train_text_encoder_only:
        found.append(
            Problem(
                "nothing would be trained after the text encoder stops.",
                "train.stop_text_encoder_training",
                "Leave it out, or train the UNet too.",
            )
        )
    if data.mask_folder and not train.masked_loss:
        what = "a folder of masks is given, but the loss is not masked."
        found.append(Problem(what, "data.mask_folder", "Set train.masked_loss."))
    general = 1.0 if train.learning_rate is None else train.learning_rate  # none given: one is chosen
    unet_lr = general if train.unet_lr is None else train.unet_lr
    text_lr = general / 2 if train.text_encoder_lr is None else train.text_encoder_lr
    text_lr = max(text_lr if rate is None else rate for rate in (train.text_encoder_lr1, train.text_encoder_lr2))
    if network.network_train_unet_only:
        text_lr = 0
    if network.network_train_text_encoder_only:
        unet_lr = 0
    if not unet_lr and not text_lr:
        found.append(
            Problem("all learning rates are 0: nothing would be trained.", "train.learning_rate", "1e-4 is usual.")
        )
    try:
        optimizer_arguments(train.optimizer_args)
    except ValueError as error:
        found.append(Problem(f"{error}.", "train.optimizer_args", "weight_decay=0.1 betas=0.9,0.99, for example."))
    if train.lr_warmup_steps and train.lr_warmup_steps > 1 and train.lr_warmup_steps % 1:
        what = f"{train.lr_warmup_steps:g} is neither a whole number of steps nor a share below 1."
        found.append(Problem(what, "train.lr_warmup_steps", "Give a whole number, or one below 1 (0.1: a tenth)."))
    if train.min_timestep >= train.max_timestep:
        what = f"no timestep is left: the last one is {train.max_timestep} (train.max_timestep)."
        found.append(Problem(what, "train.min_timestep", "Give less."))
    found += _one_rate(config)
    if data.max_token_length and data.max_token_length % CHUNK:
        what = f"captions are read in chunks of {CHUNK} tokens, so {data.max_token_length} is not possible."
        found.append(Problem(what, "data.max_token_length", f"Give {CHUNK}, {2 * CHUNK} or {MOST_TOKENS}."))
    if data.min_bucket_reso and data.max_bucket_reso and data.min_bucket_reso > data.max_bucket_reso:
        found.append(Problem("is larger than data.max_bucket_reso.", "data.min_bucket_reso", "Swap them."))
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", config.prepare.background):
        found.append(
            Problem(f"{config.prepare.background!r} is no colour.", "prepare.background", "#c0c0c0 is the usual grey.")
        )
    factor = least_factor()
    try:
        concept_weights(data.concept_weights)
    except ValueError as error:
        found.append(Problem(f"{error}.", "data.concept_weights", "Write them as sara=1,hat=0.5."))
    for side in data.more_resolutions:
        if not 64 <= side <= 4096 or side % least_factor():
            what, fix = f"{side} is no possible resolution.", f"From 64 to 4096, multiples of {least_factor()}."
            found.append(Problem(what, "data.more_resolutions", fix))
    if data.more_resolutions and (data.read_npz or data.write_npz):
        what = "sd-scripts' .npz files hold latents of one size."
        found.append(Problem(what, "data.more_resolutions", "Leave data.read_npz and data.write_npz out."))
    if data.validation_split > 1 and data.validation_split % 1:
        what = f"{data.validation_split:g} is neither a share below 1 nor a number of pictures."
        found.append(Problem(what, "data.validation_split", "Give 0.1 for a tenth, or a whole number."))
    for name, side in (("resolution", data.resolution), ("height", data.height)):
        if side and side % factor:
            found.append(Problem(f"{side} is no multiple of {factor}.", f"data.{name}", "512 is usual."))
    if data.bucket_reso_steps % factor:
        found.append(Problem(f"must be a multiple of {factor}.", "data.bucket_reso_steps", "64 is usual."))
    if config.train.gradient_accumulation_steps == 0:
        found.append(
            Problem(
                "0 micro-batches make no step.",
                "train.gradient_accumulation_steps",
                "Give 1 or more; a negative number means the number of pictures.",
            )
        )
    return found


def _one_rate(config: RunConfig) -> list[Problem]:
    """Different rates for an optimizer that finds one rate for all."""
    network, train = config.network, config.train
    texts = (train.text_encoder_lr, train.text_encoder_lr1, train.text_encoder_lr2)
    unet = () if network.network_train_text_encoder_only else (train.unet_lr,)
    rates = {rate for rate in (*unet, *(() if network.network_train_unet_only else texts)) if rate}
    if len(rates) < 2 or not any(method.own_rate for method in OPTIMIZERS.active(config)):
        return []
    what = f"finds one learning rate for all, but these differ: {', '.join(f'{rate:g}' for rate in sorted(rates))}."
    return [Problem(what, "train.optimizer", "Give train.learning_rate alone; 1 is usual.")]


def _captioning(config: RunConfig) -> list[Problem]:
    """What captioner and tagger lack, if they are used."""
    options, data, found = config.prepare, config.data, []
    if data.dataset_config and (data.folder or data.in_json or options.operations):
        what = "does not go together with data.folder, data.in_json or operations on the pictures."
        found.append(Problem(what, "data.dataset_config", "It names its own folders; give it alone."))
    if data.in_json and options.operations:
        what = "does not go together with operations on the pictures."
        found.append(Problem(what, "data.in_json", "Prepare first, then train on what is prepared."))
    if "interrogate" not in options.operations:
        return found
    for role, kind, model, command in (
        ("captioner", options.captioner, options.captioner_model, options.captioner_command),
        ("tagger", options.tagger, options.tagger_model, options.tagger_command),
    ):
        if kind in ("transformers", "wd14") and not model:
            found.append(Problem("no model is given.", f"prepare.{role}_model", "Give a folder."))
        if kind == "command" and not any("{picture}" in part for part in command[1:]):
            example = "Give PROGRAM --image {picture}, for example."
            found.append(Problem("the program has no argument with {picture}.", f"prepare.{role}_command", example))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", options.caption_device):
        what = f"{options.caption_device!r} is not known."
        found.append(Problem(what, "prepare.caption_device", "Choose from: auto, cpu, cuda, cuda:0, cuda:1 ..."))
    if options.captioner == options.tagger == "none":
        found.append(
            Problem(
                "neither captions nor tags are asked for.",
                "prepare.captioner",
                "Choose a captioner or tagger, or leave interrogate out.",
            )
        )
    return found
