"""Steps, rates, noise and loss."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.choices import OPTIMIZERS, PRECISIONS, SCHEDULES
from lora_train.config.option import COMMON, DATA, NETWORK, SOURCES, STEPS, option
from lora_train.config.usual import USUAL
from lora_train.records.family import DIFFUSION, TWO_ENCODERS

_RATES = (0, 10)
_COUNT = (0, 10_000_000)


@dataclass(frozen=True)
class TrainOptions:
    """Steps, rates, noise and loss."""

    max_train_steps: int | None = option(
        None,
        "Steps",
        "training steps",
        STEPS,
        COMMON,
        range=(1, 10_000_000),
        unset="by the number of pictures",
        flags=("--steps",),
        metavar="N",
        kohya=("max_train_steps",),
        metadata="ss_max_train_steps",
    )
    gradient_accumulation_steps: int = option(
        1,
        "Gradient accumulation",
        "accumulated batches per step; negative: the number of pictures",
        STEPS,
        flags=("--gradient",),
        metavar="N",
        kohya=("gradient_accumulation_steps",),
        metadata="ss_gradient_accumulation_steps",
    )
    learning_rate: float | None = option(
        None,
        "Learning rate",
        "learning rate",
        STEPS,
        COMMON,
        range=_RATES,
        unset=f"by the base model, usually {USUAL.rate}",
        flags=("--lr",),
        metavar="RATE",
        kohya=("learning_rate",),
        metadata="ss_learning_rate",
    )
    unet_lr: float | None = option(
        None,
        "UNet's learning rate",
        "learning rate of the UNet",
        STEPS,
        range=_RATES,
        unset="the learning rate",
        flags=("--unetlr",),
        metavar="RATE",
        kohya=("unet_lr",),
    )
    text_encoder_lr: float | None = option(
        None,
        "Text encoder's learning rate",
        "learning rate of the text encoder; 0: not trained",
        STEPS,
        COMMON,
        range=_RATES,
        unset="by the base model, usually half of the learning rate",
        flags=("--textlr",),
        metavar="RATE",
        kohya=("text_encoder_lr", "learning_rate_te"),
    )
    text_encoder_lr1: float | None = option(
        None,
        "First text encoder's learning rate",
        "learning rate of SDXL's first text encoder",
        STEPS,
        range=_RATES,
        unset="the text encoder's",
        flags=("--textlr1",),
        metavar="RATE",
        kohya=("text_encoder_lr1", "learning_rate_te1"),
        needs=TWO_ENCODERS,
    )
    text_encoder_lr2: float | None = option(
        None,
        "Second text encoder's learning rate",
        "learning rate of SDXL's second text encoder",
        STEPS,
        range=_RATES,
        unset="the text encoder's",
        flags=("--textlr2",),
        metavar="RATE",
        kohya=("text_encoder_lr2", "learning_rate_te2"),
        needs=TWO_ENCODERS,
    )
    optimizer: str = option(
        "adamw",
        "Optimizer",
        "optimizer",
        STEPS,
        choices=OPTIMIZERS,
        kohya=("optimizer_type",),
    )
    stop_text_encoder_training: int | None = option(
        None,
        "Stop the text encoder after",
        "train the text encoder for this many steps only",
        NETWORK,
        range=(1, 10_000_000),
        unset="to the end",
        flags=("--stop-text",),
        metavar="N",
        kohya=("stop_text_encoder_training",),
    )
    weight_decay: float = option(
        0.01,
        "Weight decay",
        "weight decay of the optimizer",
        STEPS,
        range=(0, 1),
    )
    lr_scheduler: str = option(
        "cosine",
        "Schedule",
        "how the learning rate changes over the steps",
        STEPS,
        choices=SCHEDULES,
        flags=("--scheduler",),
        kohya=("lr_scheduler",),
        kohya_values={"constant_with_warmup": "constant"},
        metadata="ss_lr_scheduler",
    )
    lr_warmup_steps: int | None = option(
        None,
        "Warm-up steps",
        "steps in which the learning rate rises from 0",
        STEPS,
        range=_COUNT,
        unset="5 % of the steps, 100 at most",
        flags=("--warmup",),
        metavar="N",
        kohya=("lr_warmup_steps",),
        metadata="ss_lr_warmup_steps",
    )
    max_grad_norm: float = option(
        1.0,
        "Gradient clipping",
        "clip the gradient to this norm; 0: off",
        DATA,
        range=(0, 1e6),
        metavar="NORM",
        kohya=("max_grad_norm",),
        metadata="ss_max_grad_norm",
    )
    gradient_checkpointing: bool | None = option(
        None,
        "Gradient checkpointing",
        "compute the UNet's activations again in the backward pass in place of keeping them: less memory, slower steps",
        STEPS,
        unset="where a GPU has too little free memory for a step without",
        kohya=("gradient_checkpointing",),
        metadata="ss_gradient_checkpointing",
    )
    min_snr_gamma: float | None = option(
        None,
        "Min-SNR gamma",
        "min-SNR loss weighting (arXiv 2303.09556); 5 is usual",
        DATA,
        range=(0.01, 1000),
        unset="all timesteps have the same weight",
        flags=("--min-snr",),
        metavar="GAMMA",
        kohya=("min_snr_gamma",),
        needs=DIFFUSION,
        metadata="ss_min_snr_gamma",
    )
    noise_offset: float = option(
        0.0,
        "Noise offset",
        "strength of a noise that is the same at every place, for darker and brighter pictures",
        DATA,
        range=(0, 1),
        kohya=("noise_offset",),
        needs=DIFFUSION,
    )
    zero_terminal_snr: bool | None = option(
        None,
        "Zero terminal SNR",
        "train the last timestep as pure noise (arXiv 2305.08891), for base models that predict v",
        DATA,
        unset="as the base model was trained",
        kohya=("zero_terminal_snr",),
        needs=DIFFUSION,
    )
    preserve: float | None = option(
        None,
        "Preserve",
        "share of each batch for which the base model's own prediction is learned too, under captions without the "
        "tag: the LoRA then changes little else; 0: none",
        DATA,
        range=(0, 1),
        unset="none, but for small base models",
        metavar="SHARE",
    )
    masked_loss: bool = option(
        False,
        "Masked loss",
        "weight the loss by masks: those of the operation segment, else the pictures' alpha",
        SOURCES,
        kohya=("masked_loss",),
    )
    mixed_precision: str = option(
        "auto",
        "Precision",
        "number format of the base model; trained weights and optimizer are always fp32",
        DATA,
        choices=PRECISIONS,
        flags=("--precision",),
        kohya=("mixed_precision",),
        kohya_values={"no": "fp32"},
    )
    seed: int = option(
        42,
        "Seed",
        "seed of all that is random",
        DATA,
        COMMON,
        range=(0, 2**63 - 1),
        metavar="N",
        kohya=("seed",),
        metadata="ss_seed",
    )
    device: str = option("auto", "Device", "auto, cuda, cuda:1 ..., mps or cpu", DATA)
