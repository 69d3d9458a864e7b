"""The names from which options are chosen."""

from __future__ import annotations

from lora_train.records.kinds import KINDS as _KINDS

KINDS = _KINDS.names()
DECOMPOSED = _KINDS.names(lambda kind: kind.decomposable)
"""Kinds that DoRA can be applied to."""
SCALABLE = _KINDS.names(lambda kind: kind.scalable)
"""Kinds whose delta can be shrunk (max-norm scaling)."""
STARTS = ("default", "pissa", "olora")

# in the order in which they run
PREPARE_OPERATIONS = (
    "original",
    "face",
    "body",
    "blur",
    "range",
    "similar",
    "upscale",
    "restore",
    "segment",
    "resize",
    "square",
    "interrogate",
)

SPEEDUPS = {
    "buffers": "the optimizer's many small parameters as slices of a few large ones",
    "casts": "weights cast to the base's precision once a step, not at each use",
    "sums": "a LoRA's second product and the sum in one operation",
    "half": "bf16 throughout, without autocast",
    "tf32": "TF32 in products of fp32 on a GPU",
    "channels-last": "the UNet's values with the channels last in memory on a GPU",
    "benchmark": "cuDNN tries which of its convolutions is fastest for each size",
    "late-loss": "the loss is read from the GPU one step late, so that nothing waits for it",
}
"""Techniques that change nothing but the speed, apart from rounding; see docs/performance.md."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SAVE_PRECISIONS = ("fp16", "bf16", "fp32")
BASE_PRECISIONS = ("auto", "full", "fp8", "int8", "nf4")
"""How the frozen base can be stored; "full" is the precision that it computes in."""

TRACKERS = {
    "auto": "",
    "none": "",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "comet_ml": "comet_ml",
    "aim": "aim",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
    "trackio": "trackio",
    "all": "",
}
"""Where the numbers of each step go besides log.csv, and the package that each needs."""

_EULER, _EULER_A = ("EulerDiscreteScheduler", ""), ("EulerAncestralDiscreteScheduler", "")
_KDPM, _KDPM_A = ("KDPM2DiscreteScheduler", ""), ("KDPM2AncestralDiscreteScheduler", "")
_LMS = ("LMSDiscreteScheduler", "scipy")
SAMPLERS = {
    "dpmsolver++": ("", ""),
    "dpmsolver": ("", ""),
    "dpmsingle": ("DPMSolverSinglestepScheduler", ""),
    "ddim": ("DDIMScheduler", ""),
    "pndm": ("PNDMScheduler", ""),
    "heun": ("HeunDiscreteScheduler", ""),
    "euler": _EULER,
    "k_euler": _EULER,
    "euler_a": _EULER_A,
    "k_euler_a": _EULER_A,
    "dpm_2": _KDPM,
    "k_dpm_2": _KDPM,
    "dpm_2_a": _KDPM_A,
    "k_dpm_2_a": _KDPM_A,
    "lms": _LMS,
    "k_lms": _LMS,
}
"""Samplers of previews by sd-scripts' names: the class in diffusers ("": the family's own), and the package that it
needs."""
