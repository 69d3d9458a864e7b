"""The description of a LoRA file: kind, base, ranks, strengths by block, and problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lora_train.lorafile.checks import problems_of
from lora_train.lorafile.comparing import norm
from lora_train.lorafile.factors import factors_of, has_factors
from lora_train.lorafile.families import family_of, known_family
from lora_train.lorafile.layouts import ALPHA, DORA, DOWN, MID, UP
from lora_train.lorafile.names import block_names
from lora_train.lorafile.reading import read_lora
from lora_train.networks.registry import kind_of
from lora_train.records.family import Family
from lora_train.records.kinds import KINDS

_PLAIN = {UP, DOWN, MID, ALPHA}


@dataclass(frozen=True)
class Block:
    """The modules of one block of the model."""

    modules: int
    norm: float | None
    """Root of the sum of the deltas' squared Frobenius norms; None if a module is not a LoRA."""
    largest: float | None
    """Norm of the strongest module."""


@dataclass(frozen=True)
class Report:
    """The result of `inspect`."""

    path: str
    size: int
    """In bytes, of the file or of all files in the folder."""
    layout: str
    base: str
    """ "SD 1.x" ..., or "unknown"."""
    modules: int
    kinds: dict[str, int]
    ranks: dict[str, int]
    """Rank to number of modules."""
    alphas: dict[str, int]
    """Alpha to number of modules; "none" for modules without one, which means the rank."""
    dtypes: dict[str, int]
    blocks: dict[str, Block]
    metadata: dict[str, str]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    """How the file was read, in sentences (see `LoraFile.notes`)."""
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)


def inspect(path: Path, adapter: str = "") -> Report:
    """Read and describe a LoRA file; damage inside a readable file is reported in `problems`. Raises LoraTrainError."""
    file = read_lora(path, check=False, adapter=adapter)
    modules = file.by_module()
    problems, family = problems_of(modules, str(path)), family_of(modules, file.metadata)
    return Report(
        path=str(path),
        size=sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file()),
        layout=file.layout,
        base=family or "unknown",
        modules=len(modules),
        kinds=dict(sorted(Counter(kind_name(parts) for parts in modules.values()).items())),
        ranks=_counted(rank for parts in modules.values() if (rank := _rank(parts)) is not None),
        alphas=_counted(f"{alpha_or_none(parts)}" for parts in modules.values()),
        dtypes=_counted(str(value.dtype).removeprefix("torch.") for value in file.tensors.values()),
        blocks={} if problems else _blocks(modules, known_family(family)),
        metadata=dict(sorted(file.metadata.items())),
        skipped=file.skipped,
        notes=(*file.notes, *_empty_notes(modules)),
        problems=tuple(str(problem) for problem in problems),
    )


def _empty_notes(modules: Mapping[str, Mapping[str, torch.Tensor]]) -> list[str]:
    ups = [parts.get(UP) for parts in modules.values()]
    moves = any(
        up is None or bool(up.float().any()) or parts.keys() - _PLAIN for up, parts in zip(ups, modules.values())
    )
    return [] if moves else ["every lora_up is 0: it changes nothing. It was never trained, or its values were lost."]


def kind_name(parts: Mapping[str, torch.Tensor]) -> str:
    """ "lora", "dora: lora", "loha" ..., or "unknown"."""
    kind = kind_of(parts)
    name = kind.name if kind is not None else "unknown"
    return f"dora: {name}" if DORA in parts else name


def alpha_or_none(parts: Mapping[str, torch.Tensor]) -> str:
    """Alpha as text; "none" for a module without one."""
    return f"{float(parts[ALPHA].flatten()[0]):g}" if ALPHA in parts and parts[ALPHA].numel() else "none"


def _rank(parts: Mapping[str, torch.Tensor]) -> int | None:
    """The rank shown by its parts, even if the module is damaged."""
    shown = (one for kind in KINDS.values() for one in kind.rank_of)
    return next((parts[part].shape[at] for part, at in shown if part in parts and parts[part].ndim > at), None)


def _counted(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items(), key=lambda item: -item[1])}


def _blocks(modules: Mapping[str, Mapping[str, torch.Tensor]], family: Family | None) -> dict[str, Block]:
    block_of = block_names(family, modules)
    norms: dict[str, list[float | None]] = {}
    for name, parts in modules.items():
        norms.setdefault(block_of(name), []).append(norm(factors_of(parts)) if has_factors(parts) else None)
    out = {}
    for block, found in sorted(norms.items()):
        known = [value for value in found if value is not None]
        whole = len(known) == len(found)
        out[block] = Block(
            len(found), sum(v * v for v in known) ** 0.5 if whole else None, max(known) if whole else None
        )
    return out
