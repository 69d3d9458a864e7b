"""The device that a run computes on."""

from __future__ import annotations

from lora_train.errors import LoraTrainError


def pick_device(asked: str) -> str:
    """ "cuda", "mps" or "cpu"; `asked` may be "auto". Raises LoraTrainError when it is not there."""
    import torch

    mps = getattr(torch.backends, "mps", None)
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": mps is not None and mps.is_available(),
        "cpu": True,
    }
    if asked == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there.get(asked.split(":")[0], False):
        raise LoraTrainError(f"the device {asked!r} is not there.", "train.device", "Choose auto or cpu.")
    return asked


def require_precision(device: str, precision: str) -> None:
    """Raise LoraTrainError where this precision would end the whole program: torch 2.1 writes beyond its memory in bf16
    on a CPU with several threads (seen with 2.1.2; 2.13 does not)."""
    import torch

    if device == "cpu" and precision == "bf16" and torch.__version__.startswith("2.1."):
        raise LoraTrainError("torch 2.1 crashes in bf16 on the CPU.", "train.mixed_precision", "Choose fp32.")


def fast_bf16() -> bool:
    """Whether this machine computes in bf16 at full speed."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
