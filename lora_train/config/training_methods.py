"""The methods of a training step: the tables that `train/` uses, without torch.

Each table states its methods' signature. Shapes: B pictures, latents (B, C, h, w). `model` is a BaseModel and `config`
the RunConfig with its automatic choices. sd-scripts' names are those of February 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lora_train.config.methods import Choice, Layers, Method, is_default, value_at
from lora_train.config.optimizer_args import all_arguments
from lora_train.records.family import DIFFUSION


def _from_options(**keys: str) -> Callable[[Any], Mapping[str, object]]:
    """Metadata with these keys, each with the value of the option at that path."""
    return lambda config: {key: value_at(config, path) for key, path in keys.items()}


def _unless_default(**keys: str) -> Callable[[Any], Mapping[str, object]]:
    """The same, without options at their defaults."""
    return lambda config: {k: value_at(config, path) for k, path in keys.items() if not is_default(config, path)}


_HUBER = ("train.huber_schedule", "train.huber_c", "train.huber_scale")
_HUBER_METADATA = _from_options(
    ss_huber_schedule="train.huber_schedule", ss_huber_c="train.huber_c", ss_huber_scale="train.huber_scale"
)
LOSSES = Choice(
    "losses",
    "train.loss_type",
    Method("l2", "the squared difference", "lora_train.train.losses:l2", kohya=("mse",)),
    Method("l1", "the absolute difference", "lora_train.train.losses:l1"),
    Method(
        "huber",
        "squared below a threshold, absolute above it; equals l2 near 0 (pseudo-Huber, arXiv 2403.16728)",
        "lora_train.train.losses:huber",
        _HUBER,
        _HUBER_METADATA,
    ),
    Method(
        "smooth_l1",
        "the same; equals twice l1 far from 0",
        "lora_train.train.losses:smooth_l1",
        _HUBER,
        _HUBER_METADATA,
    ),
)
"""(predicted, target, t, model, config) -> the loss at every place, of their shape (fp32)."""

HUBER_SCHEDULES = Choice(
    "Huber schedules: thresholds of huber and smooth_l1",
    "train.huber_schedule",
    Method("constant", "the same at all timesteps", "lora_train.train.losses:constant_threshold", _HUBER[1:]),
    Method("exponential", "from 1 down to huber_c", "lora_train.train.losses:exponential_threshold", _HUBER[1:]),
    Method(
        "snr",
        "from 1 down to huber_c with the SNR",
        "lora_train.train.losses:snr_threshold",
        _HUBER[1:2],
        needs=DIFFUSION,
    ),
)
"""(t, model, config) -> the threshold for each picture (B,)."""

WEIGHTINGS = Layers(
    "loss weightings",
    Method(
        "min_snr",
        "min(SNR, gamma) / SNR (arXiv 2303.09556)",
        "lora_train.train.weightings:min_snr",
        ("train.min_snr_gamma",),
    ),
    Method(
        "scale_v_pred",
        "SNR / (SNR + 1): scales the loss of a v-prediction base model like that of noise prediction",
        "lora_train.train.weightings:scale_v_pred",
        ("train.scale_v_pred_loss_like_noise_pred",),
        _from_options(ss_scale_v_pred_loss_like_noise_pred="train.scale_v_pred_loss_like_noise_pred"),
    ),
    Method(
        "v_pred_like",
        "1 + weight * (SNR + 1) / SNR: adds a v-prediction-like loss",
        "lora_train.train.weightings:v_pred_like",
        ("train.v_pred_like_loss",),
        _from_options(ss_v_pred_like_loss="train.v_pred_like_loss"),
    ),
    Method(
        "p2",
        "1 / (1 + SNR)^gamma, on the noise-prediction loss (arXiv 2204.00227)",
        "lora_train.train.weightings:p2",
        ("train.p2_gamma",),
        _from_options(ss_p2_gamma="train.p2_gamma"),
    ),
    Method(
        "debiased_estimation",
        "1 / sqrt(SNR), or 1 / (SNR + 1) for v-prediction (arXiv 2310.08442)",
        "lora_train.train.weightings:debiased_estimation",
        ("train.debiased_estimation_loss",),
    ),
)
"""(t, model, config) -> the factor on each picture's loss (B,)."""

NOISES = Layers(
    "noises",
    Method(
        "offset",
        "adds a random constant for each picture and channel",
        "lora_train.train.noises:offset",
        ("train.noise_offset", "train.noise_offset_random_strength", "train.adaptive_noise_scale"),
        lambda config: {
            "ss_noise_offset": config.train.noise_offset,
            "ss_adaptive_noise_scale": config.train.adaptive_noise_scale or None,
        },
    ),
    Method(
        "multires",
        "adds noise of lower resolutions, then scales to a standard deviation of 1 (pyramid noise)",
        "lora_train.train.noises:multires",
        ("train.multires_noise_iterations", "train.multires_noise_discount"),
        _from_options(
            ss_multires_noise_iterations="train.multires_noise_iterations",
            ss_multires_noise_discount="train.multires_noise_discount",
        ),
    ),
    Method(
        "immiscible",
        "assigns the batch's noise samples to its pictures with the smallest total distance (arXiv 2406.12303)",
        "lora_train.train.noises:immiscible",
        ("train.immiscible_noise",),
        _from_options(ss_immiscible_noise="train.immiscible_noise"),
        package="scipy",
        install="scipy",
    ),
)
"""(noise, x, generator, config) -> noise (B, C, h, w) on the CPU; the first one gets Gaussian noise. x: the latents."""

INPUT_NOISES = Layers(
    "input noises",
    Method(
        "ip_noise",
        "adds noise to the model's input that it is not trained to predict (input perturbation, arXiv 2301.11706)",
        "lora_train.train.noises:input_perturbation",
        ("train.ip_noise_gamma", "train.ip_noise_gamma_random_strength"),
        _from_options(ss_ip_noise_gamma="train.ip_noise_gamma"),
    ),
)
"""The same signature: the noise in the model's input, in place of the noise that it is trained to predict."""

_BOUNDS = ("train.min_timestep", "train.max_timestep")
SAMPLINGS = Choice(
    "timestep samplings",
    "train.timestep_sampling",
    Method(
        "uniform",
        "all timesteps equally often",
        "lora_train.train.samplings:uniform",
        _BOUNDS,
        _unless_default(ss_min_timestep=_BOUNDS[0], ss_max_timestep=_BOUNDS[1]),
    ),
    Method(
        "logit_normal",
        "sigmoid of a normal distribution: middle timesteps most often (arXiv 2403.03206)",
        "lora_train.train.samplings:logit_normal",
        (*_BOUNDS, "train.logit_mean", "train.logit_std"),
        lambda config: {
            "ss_timestep_sampling": "logit_normal",
            "ss_logit_mean": config.train.logit_mean,
            "ss_logit_std": config.train.logit_std,
            **_unless_default(ss_min_timestep=_BOUNDS[0], ss_max_timestep=_BOUNDS[1])(config),
        },
        kohya=("sigmoid",),
    ),
)
"""(count, generator, model, config) -> timesteps (count,) on the model's device."""


def _optimizer(
    name: str,
    does: str,
    where: str,
    formula: Callable[..., Any] | str = "",
    install: str = "",
    decay: bool = True,
    **more: Any,
) -> Method:
    """An optimizer of the class at `where` ("package.module:Class"); `install` is its package's name for pip.

    `formula` makes it if the class alone is not enough; without `decay` it has no weight decay."""
    usual = more.pop("usual", {})
    maker = "lora_train.train.optimizer:" + ("one_rate" if more.get("own_rate") else "by_class")

    def made(*given: Any) -> Any:
        return Method(name, does, maker)(where, usual, *given)

    def metadata(config: Any) -> dict[str, object]:
        given = {**usual, **all_arguments(config)}
        arguments = ",".join(f"{key}={value}" for key, value in given.items() if decay or key != "weight_decay")
        found: dict[str, object] = {"ss_optimizer": f"{where.replace(':', '.')}({arguments})"}
        return found | ({"ss_lr_scheduler": "constant"} if more.get("own_schedule") else {})

    options = (*(("train.weight_decay",) if decay else ()), "train.optimizer_args")
    package = where.partition(".")[0] if install else ""
    elementwise = where.startswith("torch.optim.")
    return Method(
        name,
        does,
        formula or made,
        options,
        metadata,
        package=package,
        install=install,
        elementwise=elementwise,
        **more,
    )


OPTIMIZERS = Choice(
    "optimizers",
    "train.optimizer",
    _optimizer(
        "adamw",
        "Adam with decoupled weight decay (arXiv 1711.05101)",
        "torch.optim.adamw:AdamW",
        "lora_train.train.optimizer:adamw",
    ),
    _optimizer("adam", "Adam (arXiv 1412.6980)", "torch.optim.adam:Adam"),
    _optimizer("nadam", "Adam with Nesterov momentum", "torch.optim.nadam:NAdam"),
    _optimizer("radam", "Adam with a rectified variance at the start (arXiv 1908.03265)", "torch.optim.radam:RAdam"),
    _optimizer("adamax", "Adam scaled by the maximum of past gradients", "torch.optim.adamax:Adamax"),
    _optimizer("adagrad", "steps scaled by the sum of all squared gradients", "torch.optim.adagrad:Adagrad"),
    _optimizer(
        "adadelta", "steps scaled by running means of squared gradients and steps", "torch.optim.adadelta:Adadelta"
    ),
    _optimizer("rmsprop", "steps scaled by a running mean of squared gradients", "torch.optim.rmsprop:RMSprop"),
    _optimizer("rprop", "steps in the direction of the gradient's sign", "torch.optim.rprop:Rprop", decay=False),
    _optimizer("asgd", "averaged stochastic gradient descent", "torch.optim.asgd:ASGD"),
    _optimizer("sgd", "stochastic gradient descent; momentum through optimizer_args", "torch.optim.sgd:SGD"),
    _optimizer(
        "sgdnesterov",
        "stochastic gradient descent with Nesterov momentum",
        "torch.optim.sgd:SGD",
        usual={"momentum": 0.9, "nesterov": True},
    ),
    _optimizer(
        "adafactor",
        "Adam with less memory (arXiv 1804.04235)",
        "transformers.optimization:Adafactor",
        "lora_train.train.optimizer:adafactor",
        usual={"relative_step": False, "scale_parameter": False},
    ),
    _optimizer(
        "prodigy",
        "Adam that finds its learning rate (arXiv 2306.06101)",
        "prodigyopt.prodigy:Prodigy",
        install="prodigyopt",
        own_rate=True,
    ),
    _optimizer(
        "prodigyplusschedulefree",
        "schedule-free Prodigy",
        "prodigyplus.prodigy_plus_schedulefree:ProdigyPlusScheduleFree",
        install="prodigy-plus-schedule-free",
        own_rate=True,
        own_schedule=True,
    ),
    *(
        _optimizer(
            f"dadapt{named.lower()}",
            f"{named} that finds its learning rate (D-Adaptation, arXiv 2301.07733)",
            f"dadaptation.dadapt_{named.lower()}:DAdapt{named}",
            install="dadaptation",
            kohya=("dadaptation",) if named == "Adam" else (),
            own_rate=True,
        )
        for named in ("Adam", "AdaGrad", "Adan", "Lion", "SGD")
    ),
    *(
        _optimizer(
            f"{named.lower()}schedulefree",
            f"schedule-free {named}: the result is an average of the weights (arXiv 2405.15682)",
            f"schedulefree.{named.lower()}_schedulefree:{named}ScheduleFree",
            install="schedulefree",
            own_schedule=True,
        )
        for named in ("AdamW", "RAdam", "SGD")
    ),
    *(
        _optimizer(
            named.lower(),
            f"{named.removesuffix('8bit').removeprefix('Paged')} {how}",
            f"bitsandbytes.optim.{module}:{named}",
            install="bitsandbytes",
        )
        for named, module, how in (
            ("AdamW8bit", "adamw", "with an 8-bit state"),
            ("PagedAdamW", "adamw", "with a state that can be paged to CPU memory"),
            ("PagedAdamW8bit", "adamw", "with an 8-bit state that can be paged to CPU memory"),
            ("Lion8bit", "lion", "with an 8-bit state"),
            ("PagedLion8bit", "lion", "with an 8-bit state that can be paged to CPU memory"),
        )
    ),
    _optimizer(
        "lion",
        "steps by the sign of the momentum (arXiv 2302.06675); a third to a tenth of Adam's rate is usual",
        "lion_pytorch.lion_pytorch:Lion",
        install="lion-pytorch",
    ),
    _optimizer(
        "came",
        "Adafactor guided by the confidence of its updates (arXiv 2307.02047)",
        "came_pytorch.CAME:CAME",
        install="came-pytorch",
    ),
)
"""(groups, config) -> a torch optimizer of these parameter groups."""

_LEAST = "train.lr_scheduler_min_lr_ratio"
SCHEDULES = Choice(
    "learning rate schedules",
    "train.lr_scheduler",
    Method("constant", "no change", "lora_train.train.schedule:constant", kohya=("constant_with_warmup",)),
    Method(
        "cosine",
        "half a cosine down to the minimum rate",
        "lora_train.train.schedule:cosine",
        (_LEAST,),
        kohya=("cosine_with_min_lr",),
    ),
    Method("linear", "a straight line down to the minimum rate", "lora_train.train.schedule:linear", (_LEAST,)),
    Method(
        "cosine_with_restarts",
        "several half cosines in succession",
        "lora_train.train.schedule:cosine_with_restarts",
        ("train.lr_scheduler_num_cycles", _LEAST),
        _from_options(ss_lr_scheduler_num_cycles="train.lr_scheduler_num_cycles"),
    ),
    Method(
        "polynomial",
        "a power of the straight line, down to the minimum rate",
        "lora_train.train.schedule:polynomial",
        ("train.lr_scheduler_power", _LEAST),
        _from_options(ss_lr_scheduler_power="train.lr_scheduler_power"),
    ),
    Method(
        "warmup_stable_decay",
        "the full rate, then half a cosine down to the minimum rate at the end",
        "lora_train.train.schedule:warmup_stable_decay",
        ("train.lr_decay_steps", _LEAST),
        _from_options(ss_lr_decay_steps="train.lr_decay_steps"),
    ),
    Method(
        "rex",
        "falls slowly at first and fast at the end (REX, arXiv 2107.04197)",
        "lora_train.train.schedule:rex",
        (_LEAST,),
    ),
)
"""(progress, config) -> the factor on all rates; progress goes from 0 to 1 after the warm-up."""

TABLES = (LOSSES, HUBER_SCHEDULES, WEIGHTINGS, NOISES, INPUT_NOISES, SAMPLINGS, OPTIMIZERS, SCHEDULES)
