"""Which kind of network a module's keys are, for reports; what they compute is `networks/`' matter."""

from __future__ import annotations

from collections.abc import Iterable

from lora_train.lorafile.layouts import DORA, MID

FIRST_PARTS = (
    ("lora_", "lora"),
    ("hada_", "loha"),
    ("lokr_", "lokr"),
    ("oft_blocks", "oft"),
    ("oft_diag", "oft"),
    ("on_input", "ia3"),
    ("a1.", "glora"),
    ("w_norm", "norm"),
    ("diff", "full"),
)
"""The beginning of a part, and the kind that it means; the first that a module has counts."""


def kind_name(parts: Iterable[str]) -> str:
    """ "lora", "lora (tucker)", "dora: lora", "loha" ...; "unknown" where no part tells."""
    held = sorted(parts)
    kind = next((kind for start, kind in FIRST_PARTS if any(part.startswith(start) for part in held)), "unknown")
    if MID in held or "hada_t1" in held or "lokr_t2" in held:
        kind += " (tucker)"
    return f"dora: {kind}" if DORA in held else kind
