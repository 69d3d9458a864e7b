"""The device that a run computes on."""

from __future__ import annotations

from typing import Any

from lora_train.errors import LoraTrainError


def kind_of(device: str) -> str:
    """ "cuda" of "cuda:1"."""
    return device.partition(":")[0]


def same_device(one: Any, other: Any) -> bool:
    """Whether two torch devices are the same; "cuda" is the current one of the GPUs."""
    if one.type != other.type or one.type != "cuda":
        return bool(one.type == other.type)
    import torch

    numbers = [torch.cuda.current_device() if d.index is None else d.index for d in (one, other)]
    return numbers[0] == numbers[1]


def pick_device(asked: str, where: str = "train.device", auto: str = "auto") -> str:
    """ "cuda", "cuda:1", "mps" or "cpu"; `asked` may be "auto", which then means the host's `auto`; see Host.

    Raises LoraTrainError, about the option `where`, when this machine has no such device.
    """
    import torch

    mps = getattr(torch.backends, "mps", None)
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": mps is not None and mps.is_available(),
        "cpu": True,
    }
    asked = asked.strip().lower()
    asked = auto if asked == "auto" else asked
    if asked == "auto":
        return next(name for name, is_there in there.items() if is_there)
    kind, colon, number = asked.partition(":")
    if not there.get(kind, False):
        raise LoraTrainError(f"the device {asked!r} is not there.", where, "Choose auto or cpu.")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if colon and not (number.isdecimal() and int(number) < count):
        there_are = f"there {'is' if count == 1 else 'are'} {count}, counted from {kind}:0"
        raise LoraTrainError(f"the device {asked!r} is not there ({there_are}).", where, f"Choose auto or {kind}.")
    return asked


def sent(value: Any, device: Any) -> Any:
    """A CPU tensor on `device`, without waiting there for what it computes: to CUDA from pinned memory."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def inference_dtype(device: str) -> Any:
    """The torch dtype to make pictures in, as a training would choose its precision: fp32 except on a GPU."""
    import torch

    if kind_of(device) != "cuda":
        return torch.float32
    return torch.bfloat16 if fast_bf16(device) else torch.float16


def require_precision(device: str, precision: str) -> None:
    """Raise LoraTrainError where this precision would crash the whole program: torch 2.1 writes out of bounds in bf16
    on a CPU with several threads (seen with 2.1.2; 2.13 does not)."""
    import torch

    if kind_of(device) == "cpu" and precision == "bf16" and torch.__version__.startswith("2.1."):
        raise LoraTrainError("torch 2.1 crashes in bf16 on the CPU.", "train.mixed_precision", "Choose fp32.")


def free_memory(device: str) -> int | None:
    """Bytes that are free on a CUDA GPU; None for what shares the computer's memory."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if kind_of(device) == "cuda" else None


def fast_bf16(device: str) -> bool:
    """Whether this device computes in bf16 at full speed: NVIDIA's do from compute capability 8.0 (Ampere) on.

    `torch.cuda.is_bf16_supported` also says yes where bf16 is only emulated, which is slower than fp32.
    """
    import torch

    if kind_of(device) != "cuda":
        return False
    if getattr(torch.version, "hip", None):  # AMD's capabilities are numbered differently
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability(device) >= (8, 0)
