"""Which of the kinds that can be trained the WebUI's own Lora extension cannot apply, and who can.

Tried with AUTOMATIC1111 1.10.1, whose code Forge's is like, ComfyUI, LyCORIS and diffusers; see docs/networks.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from lora_train.lorafile.layouts import DORA, named

Parts = Mapping[str, torch.Tensor]


def _is_glora(parts: Parts) -> bool:
    return "a1.weight" in parts


def _is_ia3_on_convolution(parts: Parts) -> bool:
    """On the output side; there the WebUI multiplies by a column, which does not fit four dimensions."""
    return "on_input" in parts and parts["weight"].ndim == 4 and not bool(parts["on_input"])


def _is_dora_by_rows(parts: Parts) -> bool:
    return DORA in parts and parts[DORA].shape[0] > 1


UNREAD: tuple[tuple[str, Callable[[Parts], bool], str], ...] = (
    ("GLoRA", _is_glora, "ComfyUI and LyCORIS can"),
    ("(IA)^3 on convolutions", _is_ia3_on_convolution, "LyCORIS can; with train_on_input the WebUI can, too"),
    (
        "DoRA by rows (wd_on_output)",
        _is_dora_by_rows,
        "LyCORIS can, and diffusers and peft after `lora-train file convert`; by columns (without wd_on_output) the "
        "WebUI can, too",
    ),
)
"""What it is, how it is known from a module's tensors, and who reads it."""


def reader_notes(modules: Mapping[str, Parts]) -> tuple[str, ...]:
    """For each kind among a file's modules that the WebUI's own Lora extension cannot apply: that, and who can."""
    found = []
    for kind, is_it, who in UNREAD:
        names = [name for name, parts in modules.items() if is_it(parts)]
        if names:
            found.append(
                f"The WebUI's own Lora extension cannot apply {kind}, which {len(names)} of the {len(modules)} modules "
                f"are ({named(names[:1])}). This one can (Settings, Train LoRA, who applies <lora:...>); {who}."
            )
    return tuple(found)
