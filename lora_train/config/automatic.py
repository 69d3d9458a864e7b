"""Automatic choices: options that a person has not set are filled in, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lora_train.config.choices import DECOMPOSED
from lora_train.config.planner import Choice, Predict, plan
from lora_train.config.run import DataOptions, NetworkOptions, RunConfig, TrainOptions
from lora_train.config.sections.in_training import CHUNK, MOST_TOKENS
from lora_train.config.training_methods import OPTIMIZERS
from lora_train.config.usual import (
    DEFAULT_DIM,
    DEFAULT_REPEATS,
    SMALL,
    SMALL_BASE,
    USUAL,
    Recipe,
)


@dataclass(frozen=True)
class Facts:
    """What is known about the run's surroundings when choices are made."""

    pictures: int
    native_resolution: int
    """Side in pixels that the base model was trained at."""
    device: str
    """"cuda", "cuda:1", "mps" or "cpu"."""
    fast_bf16: bool
    """Whether the device computes bf16 natively."""
    epoch: Callable[[DataOptions], tuple[int, int]] | None = None
    """The number of pictures (with repeats) and of batches in an epoch; None: as if all batches were full."""
    unet_parameters: int = 860_000_000
    """Number of weights of the base's UNet."""
    size_step: int = 8
    """Sides in pixels are multiples of at least this."""
    text_encoders: int = 1
    """Number of the base's text encoders that can be trained."""
    free_memory: int | None = None
    """Free bytes on the GPU; None without one."""
    predict: Predict | None = None
    """How much memory a step needs; None: nothing is chosen by memory."""
    longest_caption: int | None = None
    """Its tokens; None where the base model reads a fixed number."""


def resolve(config: RunConfig, facts: Facts) -> tuple[RunConfig, list[Choice]]:
    """Fill in what is not set in `config`. A value that a person has set is never changed."""
    choices: list[Choice] = []

    def choose(field: str, current: Any, value: Any, why: str) -> Any:
        if current is not None:
            return current
        choices.append(Choice(field, value, why))
        return value

    data, network, train = config.data, config.network, config.train
    if not facts.text_encoders and not network.network_train_unet_only:
        why = "this base model has no text encoder that can be trained"
        choices.append(Choice("network.network_train_unet_only", True, why))
        network = replace(network, network_train_unet_only=True)
    small = facts.unet_parameters < SMALL_BASE
    recipe = SMALL if small else USUAL
    of_base = "works well for small base models" if small else "usual for this kind of base model"
    resolution = choose(
        "data.resolution", data.resolution, facts.native_resolution, "the size this base model was trained at"
    )
    smallest = choose(
        "data.min_bucket_reso", data.min_bucket_reso, max(facts.size_step, resolution // 2), "half of the resolution"
    )
    largest = choose("data.max_bucket_reso", data.max_bucket_reso, resolution * 2, "twice the resolution")
    repeats = choose("data.repeats", data.repeats, DEFAULT_REPEATS, "usual; only defines the length of an epoch")
    dim = choose(
        "network.network_dim", network.network_dim, DEFAULT_DIM, "enough for one subject; the file stays small"
    )
    share, of_dim = recipe.alpha_share, "the dimension" if recipe.alpha_share == 1 else "half of the dimension"
    alpha = choose("network.network_alpha", network.network_alpha or None, dim * share, of_dim)
    conv_dim, conv_alpha = network.conv_dim, network.conv_alpha or None
    if recipe.convolutions and _free_for_convolutions(network):
        conv_dim = choose("network.conv_dim", conv_dim, dim, "a small base model has its shapes in the convolutions")
    if conv_dim:
        conv_alpha = choose("network.conv_alpha", conv_alpha, conv_dim * share, of_dim)
    accumulation = train.gradient_accumulation_steps
    if accumulation < 0:
        accumulation = max(1, facts.pictures)
    batch = choose("data.train_batch_size", data.train_batch_size, recipe.batch, of_base)
    data = replace(
        data,
        max_token_length=_length(data.max_token_length, facts, choose),
        train_batch_size=batch,
        resolution=resolution,
        min_bucket_reso=smallest,
        max_bucket_reso=largest,
        repeats=repeats,
    )
    steps, why_steps = _steps(facts, data, batch * accumulation, accumulation, recipe.looks)
    if train.max_train_epochs:
        steps, why_steps = _steps_of_epochs(facts, data, batch, accumulation, train.max_train_epochs)
    given = None if train.max_train_epochs and train.max_train_steps != steps else train.max_train_steps
    steps = choose("train.max_train_steps", given, steps, why_steps)
    train = _with_rates(config, recipe, of_base, choose)
    preserve = train.preserve
    if preserve is None and recipe.preserve:
        preserve = choose("train.preserve", None, recipe.preserve, "a small base model quickly forgets everything else")
    warmup = choose("train.lr_warmup_steps", train.lr_warmup_steps, min(100, steps // 20), "5 % of the steps")
    if 0 < warmup < 1:
        warmup = int(warmup * steps)  # as in sd-scripts and transformers
    precision, why = _precision(train.mixed_precision, facts)
    if why:
        choices.append(Choice("train.mixed_precision", precision, why))
    network = replace(network, network_dim=dim, network_alpha=float(alpha), conv_dim=conv_dim, conv_alpha=conv_alpha)
    train = replace(
        train,
        max_train_steps=steps,
        gradient_accumulation_steps=accumulation,
        lr_warmup_steps=warmup,
        preserve=preserve or 0.0,
        mixed_precision=precision,
        device=facts.device,
    )
    chosen, by_memory = plan(replace(config, data=data, network=network, train=train), facts.free_memory, facts.predict)
    return chosen, choices + by_memory


def _with_rates(
    config: RunConfig, recipe: Recipe, of_base: str, choose: Callable[[str, Any, Any, str], Any]
) -> TrainOptions:
    """The learning rates of UNet and text encoder: the recipe's, or one for all where the optimizer finds them."""
    train, usual, why = config.train, recipe.rate, of_base
    one_for_all = any(method.own_rate for method in OPTIMIZERS.active(config))
    if one_for_all:
        usual, why = 1.0, f"{train.optimizer} finds the learning rate itself; this is a factor on it"
    rate = choose("train.learning_rate", train.learning_rate, usual, why)
    unet_lr = choose("train.unet_lr", train.unet_lr, rate, "the general learning rate")
    text_lr, why = rate * recipe.text_share, _SHARES[recipe.text_share]
    if one_for_all:
        text_lr, why = unet_lr, "the UNet's, since one rate applies to all"
    text_lr = choose("train.text_encoder_lr", train.text_encoder_lr, text_lr, why)
    return replace(train, learning_rate=rate, unet_lr=unet_lr, text_encoder_lr=text_lr)


def _length(asked: int | None, facts: Facts, choose: Callable[[str, Any, Any, str], Any]) -> int | None:
    """How many tokens of a caption are read: what the longest needs. Only more than the usual 75 is news."""
    if asked is not None or facts.longest_caption is None:
        return asked
    needed = min(MOST_TOKENS, max(1, math.ceil(facts.longest_caption / CHUNK)) * CHUNK)
    why = f"the longest caption has {facts.longest_caption} tokens"
    return choose("data.max_token_length", None, needed, why) if needed > CHUNK else CHUNK  # type: ignore[no-any-return]


_SHARES = {0.5: "half of the learning rate", 2 / 3: "two thirds of the learning rate"}


def _steps(
    facts: Facts, data: DataOptions, asked: int, accumulation: int, wanted: tuple[int, int, int]
) -> tuple[int, str]:
    """The number of steps that shows each picture as often as wanted, within bounds; and the reason.

    A step has `asked` pictures, or fewer if a bucket or the whole set has no more.
    """
    each, least, most = wanted
    looks = min(most, max(least, each * facts.pictures))
    if facts.epoch is None:
        per_step = float(asked)
    else:
        shown, batches = facts.epoch(data)
        per_step = shown / math.ceil(batches / accumulation)
    steps = math.ceil(looks / per_step)
    seen = round(steps * per_step / max(1, facts.pictures))
    return steps, f"each of the {facts.pictures} pictures is seen about {seen} times"


def _steps_of_epochs(facts: Facts, data: DataOptions, batch: int, accumulation: int, epochs: int) -> tuple[int, str]:
    """The steps of so many epochs; an epoch ends a group of accumulated batches, as with accelerate."""
    repeats = data.repeats or DEFAULT_REPEATS
    batches = math.ceil(facts.pictures * repeats / batch) if facts.epoch is None else facts.epoch(data)[1]
    each = math.ceil(batches / accumulation)
    return epochs * each, f"{epochs} epochs of {each} steps"


def _free_for_convolutions(network: NetworkOptions) -> bool:
    """Whether no option that a person has set decides which layers are trained."""
    set_by_hand = network.network_weights or network.block_dims or network.conv_block_dims
    return network.kind in DECOMPOSED and not set_by_hand and not network.network_train_text_encoder_only


def _precision(asked: str, facts: Facts) -> tuple[str, str]:
    if asked != "auto":
        return asked, ""
    if facts.device.partition(":")[0] == "cuda":
        return ("bf16", "the GPU computes bf16") if facts.fast_bf16 else ("fp16", "the GPU has no fast bf16")
    return "fp32", "exact, and there is no GPU"
