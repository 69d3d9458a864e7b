"""Which of the kinds that can be trained the WebUI's own Lora extension cannot apply, and who can.

Tried with AUTOMATIC1111 1.10.1, whose code Forge's is like, ComfyUI, LyCORIS and diffusers; see docs/networks.md.
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
    "can, too",
)
"""DoRA is no kind of its own: it can be around several."""


def _unread_of(parts: Parts) -> Iterator[Unread]:
    """What of a module the WebUI's own Lora extension cannot apply."""
    kind = kind_within(parts)
    if kind is not None:
        yield from (one for one in kind.not_read if one.when(parts))
    if DORA_BY_ROWS.when(parts):
        yield DORA_BY_ROWS


def reader_notes(modules: Mapping[str, Parts]) -> tuple[str, ...]:
    """For each kind among a file's modules that the WebUI's own Lora extension cannot apply: that, and who can."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, parts in modules.items():
        for one in _unread_of(parts):
            found.setdefault((one.what, one.who), []).append(name)
    return tuple(
        f"The WebUI's own Lora extension cannot apply {what}, which {len(names)} of the {len(modules)} modules "
        f"are ({named(names[:1])}). This one can (Settings, Train LoRA, who applies <lora:...>); {who}."
        for (what, who), names in found.items()
    )
