"""Steps, rates, noise and loss."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.choices import BASE_PRECISIONS, PRECISIONS, SPEEDUPS
from lora_train.config.option import COMMAS, COMMON, DATA, LOSS, NETWORK, SOURCES, STEPS, WORDS, option
from lora_train.config.registered import Section
from lora_train.config.training_methods import HUBER_SCHEDULES, LOSSES, OPTIMIZERS, SAMPLINGS, SCHEDULES
from lora_train.config.usual import USUAL
from lora_train.records.family import DIFFUSION, TWO_ENCODERS

_RATES = (0, 10)
_COUNT = (0, 10_000_000)
TIMES = 1000
"""The number of training timesteps, as in every Stable Diffusion model."""


@dataclass(frozen=True)
class TrainOptions(Section, section="train"):
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
    max_train_epochs: int = option(
        0,
        "Epochs",
        "train for this many epochs, whatever the steps say; 0: as many as the steps make",
        STEPS,
        range=(0, 1_000_000),
        metavar="N",
        kohya=("max_train_epochs",),
    )
    gradient_accumulation_steps: int = option(
        1,
        "Gradient accumulation",
        "batches accumulated per step; negative: the number of pictures",
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
    optimizer_args: tuple[str, ...] = option(
        (),
        "Optimizer arguments",
        "additional optimizer arguments, as in sd-scripts, for example weight_decay=0.1 betas=0.9,0.99",
        STEPS,
        metavar="NAME=VALUE",
        written=WORDS,
        kohya=("optimizer_args",),
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
        metadata="ss_lr_scheduler",
    )
    lr_scheduler_num_cycles: int = option(
        1,
        "Cycles of the schedule",
        "number of cycles of the schedule cosine_with_restarts",
        STEPS,
        range=(0, 1000),
        metavar="N",
        kohya=("lr_scheduler_num_cycles",),
    )
    lr_scheduler_power: float = option(
        1.0,
        "Power of the schedule",
        "power of the schedule polynomial",
        STEPS,
        range=(0, 100),
        metavar="POWER",
        kohya=("lr_scheduler_power",),
    )
    lr_decay_steps: float = option(
        0.1,
        "Decay steps",
        "last steps, in which the schedule warmup_stable_decay lowers the rate; below 1: this share of all steps",
        STEPS,
        range=_COUNT,
        metavar="N",
        kohya=("lr_decay_steps",),
    )
    lr_scheduler_min_lr_ratio: float = option(
        0.0,
        "Minimum rate",
        "minimum that the schedule ends at, as a share of the learning rate",
        STEPS,
        range=(0, 1),
        metavar="SHARE",
        kohya=("lr_scheduler_min_lr_ratio",),
    )
    lr_warmup_steps: float | None = option(
        None,
        "Warm-up steps",
        "steps in which the learning rate rises from 0; below 1: this share of all steps",
        STEPS,
        range=_COUNT,
        unset="5 % of the steps, 100 at most",
        flags=("--warmup",),
        metavar="N",
        kohya=("lr_warmup_steps",),
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
    micro_batch_size: int | None = option(
        None,
        "Pictures at once",
        "how many pictures of a batch go through the model at once: fewer need less memory, and the result is the same",
        STEPS,
        range=(1, 10_000),
        unset="all of the batch",
        flags=("--at-once",),
        metavar="N",
    )
    gradient_checkpointing: bool | None = option(
        None,
        "Gradient checkpointing",
        "recompute the UNet's activations in the backward pass instead of keeping them: less memory, slower steps",
        STEPS,
        unset="on if the GPU has too little free memory for a step without it",
        kohya=("gradient_checkpointing",),
        metadata="ss_gradient_checkpointing",
    )
    checkpointing_share: float | None = option(
        None,
        "Share of blocks recomputed",
        "share of the UNet's blocks whose activations are recomputed with gradient checkpointing, from the first on: "
        "fewer blocks are faster, and need more memory",
        STEPS,
        range=(0.01, 1),
        unset="all, or as many as the GPU's free memory needs",
        metavar="SHARE",
    )
    base_precision: str = option(
        "auto",
        "Precision of the frozen base",
        "how the weights of the UNet, which are not trained, are stored: full as they compute, fp8 and int8 in half of "
        "the memory of bf16, nf4 in a quarter; fewer bits are less exact and slower. auto: full, or fp8 if the GPU has "
        "too little free memory",
        STEPS,
        choices=BASE_PRECISIONS,
    )
    speedups_off: tuple[str, ...] = option(
        (),
        "Speed-ups left out",
        f"techniques of speed that are left out, to compare them: {', '.join(SPEEDUPS)}",
        STEPS,
        choices=tuple(SPEEDUPS),
        unset="none",
        metavar="LIST",
        written=COMMAS,
    )
    deterministic: bool = option(
        False,
        "Deterministic",
        "the same bits in every run on one GPU, also after a resume; slower (a CPU always gives the same)",
        STEPS,
    )
    loss_type: str = option(
        "l2",
        "Loss",
        "loss function between prediction and target",
        LOSS,
        choices=LOSSES,
        kohya=("loss_type",),
        metadata="ss_loss_type",
    )
    huber_schedule: str = option(
        "snr",
        "Huber schedule",
        "how the threshold of the losses huber and smooth_l1 changes with the timestep",
        LOSS,
        choices=HUBER_SCHEDULES,
        kohya=("huber_schedule",),
    )
    huber_c: float = option(
        0.1,
        "Huber threshold",
        "threshold of the losses huber and smooth_l1, at the noisy end",
        LOSS,
        range=(1e-6, 1000),
        metavar="C",
        kohya=("huber_c",),
    )
    huber_scale: float = option(
        1.0,
        "Huber scale",
        "factor on the threshold of huber and smooth_l1, for the schedules constant and exponential",
        LOSS,
        range=(1e-6, 1e6),
        kohya=("huber_scale",),
    )
    min_snr_gamma: float | None = option(
        None,
        "Min-SNR gamma",
        "min-SNR loss weighting (arXiv 2303.09556); 5 is usual",
        LOSS,
        range=(0.01, 1000),
        unset="off",
        flags=("--min-snr",),
        metavar="GAMMA",
        kohya=("min_snr_gamma",),
        needs=DIFFUSION,
        metadata="ss_min_snr_gamma",
    )
    debiased_estimation_loss: bool = option(
        False,
        "Debiased estimation",
        "debiased estimation: weight the loss by 1 / sqrt(SNR) (arXiv 2310.08442)",
        LOSS,
        kohya=("debiased_estimation_loss",),
        needs=DIFFUSION,
        metadata="ss_debiased_estimation",
    )
    scale_v_pred_loss_like_noise_pred: bool = option(
        False,
        "Scale v-prediction loss like noise prediction",
        "for v-prediction base models: scale the loss like that of noise prediction",
        LOSS,
        kohya=("scale_v_pred_loss_like_noise_pred",),
        needs=DIFFUSION,
    )
    v_pred_like_loss: float | None = option(
        None,
        "V-prediction-like loss",
        "for noise-prediction base models: add a v-prediction-like loss with this weight",
        LOSS,
        range=(0, 1000),
        unset="none",
        metavar="WEIGHT",
        kohya=("v_pred_like_loss",),
        needs=DIFFUSION,
    )
    p2_gamma: float | None = option(
        None,
        "P2 gamma",
        "P2 loss weighting (arXiv 2204.00227): 1 / (1 + SNR)^gamma; 0.5 or 1 are usual",
        LOSS,
        range=(0, 10),
        unset="off",
        metavar="GAMMA",
        needs=DIFFUSION,
    )
    noise_offset: float = option(
        0.0,
        "Noise offset",
        "strength of noise that is constant over the whole picture, for darker and brighter results",
        LOSS,
        range=(0, 1),
        kohya=("noise_offset",),
        needs=DIFFUSION,
    )
    noise_offset_random_strength: bool = option(
        False,
        "Random noise offset strength",
        "random noise offset strength per step, from 0 to the given one",
        LOSS,
        kohya=("noise_offset_random_strength",),
        needs=DIFFUSION,
        metadata="ss_noise_offset_random_strength",
    )
    adaptive_noise_scale: float = option(
        0.0,
        "Adaptive noise offset",
        "add the absolute mean of a picture's latents times this value to the noise offset",
        LOSS,
        range=(-10, 10),
        metavar="SCALE",
        kohya=("adaptive_noise_scale",),
        needs=DIFFUSION,
    )
    multires_noise_iterations: int = option(
        0,
        "Multires noise",
        "layers of multi-resolution (pyramid) noise; 6 to 10 are usual, 0: none",
        LOSS,
        range=(0, 20),
        metavar="N",
        kohya=("multires_noise_iterations",),
    )
    multires_noise_discount: float = option(
        0.3,
        "Multires noise discount",
        "strength of each layer of multi-resolution noise, as a share of the previous one",
        LOSS,
        range=(0, 1),
        metavar="SHARE",
        kohya=("multires_noise_discount",),
    )
    immiscible_noise: bool = option(
        False,
        "Immiscible noise",
        "match each picture with the nearest of the batch's noise samples (arXiv 2406.12303); best with large batches",
        LOSS,
    )
    ip_noise_gamma: float = option(
        0.0,
        "Input perturbation",
        "strength of extra noise added to the model's input (arXiv 2301.11706); 0.1 is usual, 0: none",
        LOSS,
        range=(0, 1),
        metavar="GAMMA",
        kohya=("ip_noise_gamma",),
    )
    ip_noise_gamma_random_strength: bool = option(
        False,
        "Random input perturbation strength",
        "random input perturbation strength per step, from 0 to the given one",
        LOSS,
        kohya=("ip_noise_gamma_random_strength",),
        metadata="ss_ip_noise_gamma_random_strength",
    )
    timestep_sampling: str = option(
        "uniform",
        "Timestep sampling",
        "how the training timesteps are sampled",
        LOSS,
        choices=SAMPLINGS,
        kohya=("timestep_sampling",),
    )
    min_timestep: int = option(
        0,
        "Minimum timestep",
        "train only timesteps from this one on, of 1000; 0 is the clean end",
        LOSS,
        range=(0, TIMES - 1),
        metavar="T",
        kohya=("min_timestep",),
    )
    max_timestep: int = option(
        TIMES,
        "Maximum timestep",
        "train only timesteps below this one, of 1000",
        LOSS,
        range=(1, TIMES),
        metavar="T",
        kohya=("max_timestep",),
    )
    logit_mean: float = option(
        0.0,
        "Logit-normal mean",
        "mean of the timestep sampling logit_normal; above 0: noisier timesteps",
        LOSS,
        range=(-10, 10),
        kohya=("logit_mean",),
    )
    logit_std: float = option(
        1.0,
        "Logit-normal standard deviation",
        "standard deviation of the timestep sampling logit_normal",
        LOSS,
        range=(0.01, 10),
        kohya=("logit_std", "sigmoid_scale"),
    )
    zero_terminal_snr: bool | None = option(
        None,
        "Zero terminal SNR",
        "train the last timestep as pure noise (arXiv 2305.08891), for v-prediction base models",
        LOSS,
        unset="as the base model was trained",
        kohya=("zero_terminal_snr",),
        needs=DIFFUSION,
    )
    preserve: float | None = option(
        None,
        "Preserve",
        "share of each batch that also learns the base model's own prediction, with captions without the tag: the "
        "LoRA then changes little else; 0: none",
        DATA,
        range=(0, 1),
        unset="none, except for small base models",
        metavar="SHARE",
    )
    prior_loss_weight: float = option(
        1.0,
        "Regularisation weight",
        "factor on the loss of regularisation pictures",
        DATA,
        range=(0, 1000),
        metavar="WEIGHT",
        kohya=("prior_loss_weight",),
        metadata="ss_prior_loss_weight",
    )
    masked_loss: bool = option(
        False,
        "Masked loss",
        "weight the loss by masks: the folder of masks, those of the operation segment, else the pictures' alpha",
        SOURCES,
        kohya=("masked_loss",),
    )
    unmasked_weight: float = option(
        0.0,
        "Weight outside the mask",
        "weight of what is black in a mask; 0.1 keeps pictures coherent",
        SOURCES,
        range=(0, 1),
        metavar="WEIGHT",
    )
    normalize_masked_area_loss: bool = option(
        False,
        "Normalise by the mask's area",
        "divide the masked loss by the mean of the mask, so that a small subject counts as much as a large one",
        SOURCES,
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
        "seed of all random numbers",
        DATA,
        COMMON,
        range=(0, 2**63 - 1),
        metavar="N",
        kohya=("seed",),
        metadata="ss_seed",
    )
    device: str = option("auto", "Device", "auto, cuda, cuda:1 ..., mps or cpu", DATA)
