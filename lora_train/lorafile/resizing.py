"""Change the rank of a LoRA, module by module, by SVD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.factors import Cut, Factors, alpha_of, cut_factors, factors_of, has_factors
from lora_train.lorafile.layouts import DOWN, named
from lora_train.lorafile.reading import LoraFile
from lora_train.lorafile.writing import Progress, narrowed, no_progress
from lora_train.networks.full import BIAS


@dataclass(frozen=True)
class ModuleCut:
    """The result for one module."""

    name: str
    before: int
    after: int
    kept: float
    """Share of the delta's Frobenius norm."""


def resize(
    file: LoraFile,
    cut: Cut,
    convolutions: Cut | None = None,
    rules: Mapping[str, Cut] | None = None,
    progress: Progress = no_progress,
) -> tuple[LoraFile, list[ModuleCut]]:
    """`file` with other ranks. `convolutions` is the cut for kernels larger than 1 x 1; None: the same.

    `rules` are cuts by module name with `*` and `?`; the first that matches takes precedence. Ranks never grow, since
    nothing would be gained. alpha / rank is kept, so alpha changes with the rank.
    Raises LoraTrainError for kinds that two factors cannot express, and for rules that fit no module.
    """
    modules = file.by_module()
    require_factors(file, "resized")
    idle = [pattern for pattern in rules or {} if not any(fnmatchcase(name, pattern) for name in modules)]
    if idle:
        raise LoraTrainError(
            f"no module is called {', '.join(idle)}.", str(file.path), "Give a pattern such as lora_te_* or *attn2*."
        )
    tensors: dict[str, torch.Tensor] = {}
    done = []
    for number, (name, parts) in enumerate(modules.items()):
        progress(number, len(modules))
        factors = factors_of(parts)
        kernel = len(factors.shape) == 3 and factors.shape[1:] != (1, 1)
        general = convolutions if kernel and convolutions is not None else cut
        its = next((one for pattern, one in (rules or {}).items() if fnmatchcase(name, pattern)), general)
        smaller, kept = cut_factors(factors, its)
        scale = alpha_of(parts) / parts[DOWN].shape[0]
        for part, value in scaled_tensors(smaller, scale).items():
            tensors[f"{name}.{part}"] = value if part == "alpha" else narrowed(value, parts[DOWN].dtype)
        if BIAS in parts:
            tensors[f"{name}.{BIAS}"] = parts[BIAS]
        done.append(ModuleCut(name, factors.rank, smaller.rank, kept))
    progress(len(modules), len(modules))
    ranks = {one.after for one in done}
    comment = f"resized from rank {_listed({one.before for one in done})} to {_listed(ranks)}"
    metadata = file.metadata | dimensions(tensors) | {"ss_training_comment": _said(file, comment)}
    return replace(file, tensors=dict(sorted(tensors.items())), metadata=metadata, layout="kohya"), done


def scaled_tensors(factors: Factors, scale: float) -> dict[str, torch.Tensor]:
    """kohya's tensors with alpha / rank = `scale`, the matrices' product divided by it."""
    if scale <= 0:
        return factors.tensors()
    root = scale**0.5
    tensors = replace(factors, up=factors.up / root, down=factors.down / root).tensors()
    return tensors | {"alpha": torch.tensor(scale * factors.rank)}


def dimensions(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """kohya's `ss_network_dim` and `ss_network_alpha` for these tensors; "Dynamic" where they vary."""
    ranks = {value.shape[0] for key, value in tensors.items() if key.endswith("." + DOWN)}
    alphas = {float(value) for key, value in tensors.items() if key.endswith(".alpha")}
    return {
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(alphas.pop()) if len(alphas) == 1 else "Dynamic",
    }


def require_factors(file: LoraFile, what: str) -> None:
    """Raise LoraTrainError that names the modules that are not a plain LoRA."""
    odd = [name for name, parts in file.by_module().items() if not has_factors(parts)]
    if odd:
        raise LoraTrainError(
            f"only LoRA can be {what}; {len(odd)} modules are of another kind ({named(odd)}).",
            str(file.path),
            "Make a LoRA of it: `lora-train file merge-into` its base, then `extract`.",
        )


def _listed(ranks: set[int]) -> str:
    return str(min(ranks)) if len(ranks) == 1 else f"{min(ranks)}-{max(ranks)}"


def _said(file: LoraFile, comment: str) -> str:
    before = file.metadata.get("ss_training_comment", "None")
    return comment if before in ("", "None") else f"{before}; {comment}"
