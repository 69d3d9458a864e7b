"""The trainable kinds that the WebUI's own Lora extension cannot apply, and the programs that can.

Tried with AUTOMATIC1111 1.10.1, whose code Forge's resembles, ComfyUI, LyCORIS and diffusers; see docs/networks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from lora_train.lorafile.layouts import DORA, named
from lora_train.records.kind import Unread
from lora_train.records.kinds import kind_within

Parts = Mapping[str, torch.Tensor]

DORA_BY_ROWS = Unread(
    "DoRA by rows (wd_on_output)",
    lambda parts: DORA in parts and bool(parts[DORA].shape[0] > 1),
    "LyCORIS can, and diffusers and peft after `lora-train file convert`; by columns (without wd_on_output) the WebUI "
    "can as well",
)
"""DoRA is not a kind of its own: it can be applied to several."""


def _unread_of(parts: Parts) -> Iterator[Unread]:
    """The reasons why the WebUI's own Lora extension cannot apply a module."""
    kind = kind_within(parts)
    if kind is not None:
        yield from (one for one in kind.not_read if one.when(parts))
    if DORA_BY_ROWS.when(parts):
        yield DORA_BY_ROWS


def reader_notes(modules: Mapping[str, Parts]) -> tuple[str, ...]:
    """A note for each kind in a file that the WebUI's own Lora extension cannot apply, with the programs that can."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, parts in modules.items():
        for one in _unread_of(parts):
            found.setdefault((one.what, one.who), []).append(name)
    return tuple(
        f"The WebUI's own Lora extension cannot apply {what}, which {len(names)} of the {len(modules)} modules "
        f"are ({named(names[:1])}). This one can (Settings, Train LoRA, who applies <lora:...>); {who}."
        for (what, who), names in found.items()
    )
