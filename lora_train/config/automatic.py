"""Automatic choices: what a person left open is filled in, each choice with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lora_train.config.network import DEFAULT_DIM
from lora_train.config.run import DataOptions, RunConfig

LOOKS_PER_PICTURE = 100
"""How often each picture is seen in a run whose steps are chosen for the person."""


@dataclass(frozen=True)
class Facts:
    """What is known about the run's surroundings when choices are made."""

    pictures: int
    native_resolution: int
    """Side in pixels that the base model was trained for."""
    device: str
    """"cuda", "cuda:1", "mps" or "cpu"."""
    fast_bf16: bool
    """Whether the device computes bf16 natively."""
    epoch: Callable[[DataOptions], tuple[int, int]] | None = None
    """How many pictures (repeats counted) and how many batches an epoch has; None: as if all batches were full."""


@dataclass(frozen=True)
class Choice:
    """One value that was chosen, and why."""

    field: str
    value: Any
    why: str


def resolve(config: RunConfig, facts: Facts) -> tuple[RunConfig, list[Choice]]:
    """Fill in what `config` leaves open. What a person set is never changed."""
    choices: list[Choice] = []

    def choose(field: str, current: Any, value: Any, why: str) -> Any:
        if current is not None:
            return current
        choices.append(Choice(field, value, why))
        return value

    data, network, train = config.data, config.network, config.train
    resolution = choose(
        "data.resolution", data.resolution, facts.native_resolution, "the size this base model was trained at"
    )
    smallest = choose("data.min_bucket_reso", data.min_bucket_reso, max(8, resolution // 2), "half of the resolution")
    largest = choose("data.max_bucket_reso", data.max_bucket_reso, resolution * 2, "twice the resolution")
    repeats = choose("data.repeats", data.repeats, 10, "usual; only sets what is called an epoch")
    dim = choose(
        "network.network_dim", network.network_dim, DEFAULT_DIM, "enough for one subject; the file stays small"
    )
    alpha = choose("network.network_alpha", network.network_alpha or None, dim / 2, "half of the dimension")
    conv_alpha = network.conv_alpha or None
    if network.conv_dim:
        conv_alpha = choose("network.conv_alpha", conv_alpha, network.conv_dim / 2, "half of the dimension")
    accumulation = train.gradient_accumulation_steps
    if accumulation < 0:
        accumulation = max(1, facts.pictures)
    data = replace(data, resolution=resolution, min_bucket_reso=smallest, max_bucket_reso=largest, repeats=repeats)
    steps, why_steps = _steps(facts, data, accumulation)
    steps = choose("train.max_train_steps", train.max_train_steps, steps, why_steps)
    unet_lr = choose("train.unet_lr", train.unet_lr, train.learning_rate, "the general learning rate")
    text_lr = choose(
        "train.text_encoder_lr", train.text_encoder_lr, train.learning_rate / 2, "half of the learning rate"
    )
    warmup = choose("train.lr_warmup_steps", train.lr_warmup_steps, min(100, steps // 20), "5 % of the steps")
    precision, why = _precision(train.mixed_precision, facts)
    if why:
        choices.append(Choice("train.mixed_precision", precision, why))
    return (
        replace(
            config,
            data=data,
            network=replace(network, network_dim=dim, network_alpha=float(alpha), conv_alpha=conv_alpha),
            train=replace(
                train,
                max_train_steps=steps,
                gradient_accumulation_steps=accumulation,
                unet_lr=unet_lr,
                text_encoder_lr=text_lr,
                lr_warmup_steps=warmup,
                mixed_precision=precision,
                device=facts.device,
            ),
        ),
        choices,
    )


def _steps(facts: Facts, data: DataOptions, accumulation: int) -> tuple[int, str]:
    """Steps for about LOOKS_PER_PICTURE looks, but no fewer than 600 looks and no more than 4000; and what comes of it.

    A step has fewer pictures than asked for where a bucket or the set itself has no more.
    """
    looks = min(4000, max(600, LOOKS_PER_PICTURE * facts.pictures))
    if facts.epoch is None:
        per_step = float(data.train_batch_size * accumulation)
    else:
        shown, batches = facts.epoch(data)
        per_step = shown / math.ceil(batches / accumulation)
    steps = math.ceil(looks / per_step)
    seen = round(steps * per_step / max(1, facts.pictures))
    return steps, f"each of the {facts.pictures} pictures is seen about {seen} times"


def _precision(asked: str, facts: Facts) -> tuple[str, str]:
    if asked != "auto":
        return asked, ""
    if facts.device.partition(":")[0] == "cuda":
        return ("bf16", "the GPU computes bf16") if facts.fast_bf16 else ("fp16", "the GPU has no fast bf16")
    return "fp32", "the exact choice where there is no GPU"
