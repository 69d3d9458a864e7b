"""Other names that single-file checkpoints have for the same tensors, and what they hold besides the model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from lora_train.models.ldm_keys import CLIP_PREFIX, SDXL_TEXT_PREFIXES

_NO_TEXT_MODEL = re.compile(
    rf"({re.escape(CLIP_PREFIX)}|{re.escape(SDXL_TEXT_PREFIXES[0])})(embeddings|encoder|final_layer_norm)\."
)
EMA = "model_ema."


def usual_names(names: Collection[str]) -> dict[str, str]:
    """Each of a checkpoint's names to its usual name, which most have.

    Some SD 1.x checkpoints lack `text_model.`, as transformers' first CLIP had it; the WebUI knows them too.
    """
    usual = {name: _NO_TEXT_MODEL.sub(r"\1text_model.\2.", name) for name in names}
    return {name: name if other in names else other for name, other in usual.items()}


def remarks(dtypes: Mapping[str, str], foreign: Collection[str]) -> list[str]:
    """Notes on a checkpoint's contents besides its model.

    `dtypes` are torch's, by name of the tensor; `foreign` is code that it names.
    """
    said = []
    if any(name.startswith(EMA) for name in dtypes):
        said.append("The checkpoint also holds averaged weights (EMA), which are left out; the model's own are used.")
    eight = sorted({dtype for dtype in dtypes.values() if "8_" in dtype and "float" in dtype})
    if eight:
        count = sum(dtype in eight for dtype in dtypes.values())
        said.append(f"The base has only 8-bit precision ({', '.join(eight)}): {count} of its tensors are stored in it.")
    if foreign:
        named = ", ".join(list(foreign)[:3]) + (" ..." if len(foreign) > 3 else "")
        said.append(f"The checkpoint names code beside its weights ({named}); none of it was run.")
    return said


def left_out(names: Collection[str], used: Collection[str], what: str) -> list[str]:
    """A note on tensors of the part `what` that its model has no place for."""
    spare = sorted(name for name in names if name not in used and not name.endswith("position_ids"))
    if not spare:
        return []
    named = ", ".join(spare[:3]) + (" ..." if len(spare) > 3 else "")
    return [f"Left out of the checkpoint's {what}, which has no place for them: {len(spare)} tensors ({named})."]
