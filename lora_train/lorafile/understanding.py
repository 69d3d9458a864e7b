"""A file's keys translated to kohya's names; keys that are not understood are listed and ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from lora_train.lorafile.contents import NotLora, contents_of
from lora_train.lorafile.families import SDXL, family_of, input_width, known_family
from lora_train.lorafile.layouts import Key, named, split_key
from lora_train.lorafile.names import canonical_path, component_of, flat_name, has_deep_transformers
from lora_train.records.families import is_text, shared_prefix
from lora_train.records.family import Family

FOREIGN = "keys that are not a LoRA's"
_REASONS = (
    (".base_layer.", "weights of the base model itself (base_layer), which peft keeps beside its own"),
    ("bundle_emb.", "embeddings, which belong in the embeddings folder as files of their own"),
    ("emb_params", "embeddings, which belong in the embeddings folder as files of their own"),
    ("string_to_param.", "embeddings, which belong in the embeddings folder as files of their own"),
)
"""Part of a key, and what such keys are."""
_WHOLE = "whole weights of the base model (peft's modules_to_save)"
_FIRST = ("", "default", "default_0")
"""Adapters that are preferred if none was chosen."""


@dataclass
class LeftOut:
    """The unused keys of a file by reason, and other notes for the person."""

    keys: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    """Modules without effect in every program."""

    def add(self, reason: str, key: str) -> None:
        """Ignore a key."""
        self.keys.setdefault(reason, []).append(key)

    def sentences(self) -> list[str]:
        """Everything that is ignored, as sentences."""
        return [
            (f"{len(keys)} {reason} are" if len(keys) > 1 else "1 key that is not a LoRA's is")
            + f" left out ({named(keys)})."
            if reason == FOREIGN
            else f"Left out: {reason} ({len(keys)} keys: {named(keys)})."
            for reason, keys in self.keys.items()
        ] + self.notes


@dataclass(frozen=True)
class Read:
    """The parsed keys of a file."""

    modules: dict[str, dict[str, torch.Tensor]]
    """Tensors by kohya's module name, and part."""
    layout: str
    paths: dict[str, str]
    """Module name to its name in the file ("unet.down_blocks. ...", "oft_unet_...")."""
    left_out: LeftOut


def understand(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], adapter: str = "") -> Read:
    """Translate a file's keys to kohya's names.

    `adapter` is the one to read of several that peft stored in one file; "": the first. Raises ValueError when there is
    no such adapter, and NotLora, which says what the file is, when no key is understood.
    """
    left_out = LeftOut()
    keys: dict[str, Key] = {}
    for key in tensors:
        found = split_key(key)
        if found is None:
            left_out.add(_reason(key), key)
        else:
            keys[key] = found
    if not keys:
        raise NotLora(contents_of(tensors, metadata))
    keys = _of_one_adapter(keys, adapter, left_out)
    spelled = _by_spelling(keys, tensors, metadata)
    modules, paths = {}, {}
    for module, spellings in sorted(spelled.items()):
        paths[module], modules[module] = _one_spelling(spellings, left_out)
    layouts = sorted({found.layout for found in keys.values()})
    return Read(modules, "+".join(layouts), paths, left_out)


def _reason(key: str) -> str:
    known = next((reason for sign, reason in _REASONS if sign in key), "")
    if known:
        return known
    stem, _, last = key.rpartition(".")
    whole = last in ("weight", "bias") and split_key(f"{stem}.diff") is not None and "lora" not in stem
    return _WHOLE if whole else FOREIGN


def _of_one_adapter(keys: dict[str, Key], wanted: str, left_out: LeftOut) -> dict[str, Key]:
    """The keys of one adapter (in each part of the model), if peft stored several in the file."""
    names: dict[str, set[str]] = {}
    for found in keys.values():
        if found.adapter is not None:
            names.setdefault(found.prefix, set()).add(found.adapter)
    every = sorted(set().union(*names.values()))
    if wanted and wanted not in every:
        raise ValueError(
            f"it has no adapter called {wanted!r} (there: {', '.join(filter(None, every)) or 'none named'})"
        )
    chosen = {prefix: wanted if wanted in its else min(its, key=_precedence) for prefix, its in names.items()}
    kept = {}
    for key, found in keys.items():
        if found.adapter is None or found.adapter == chosen[found.prefix]:
            kept[key] = found
        else:
            left_out.add(f"the adapter {found.adapter or '(without a name)'}", key)
    if len(kept) < len(keys):
        took = ", ".join(sorted({name or "the one without a name" for name in chosen.values()}))
        left_out.notes.append(
            f"The file has several adapters ({', '.join(name or 'one without a name' for name in every)}); {took} is "
            "used. Choose another with --adapter NAME, or convert it to a file of its own with "
            "`lora-train file convert FILE --adapter NAME --to kohya --output NEW`."
        )
    return kept


def adapters_in(keys: Iterable[str]) -> list[str]:
    """The names of the adapters in a file's keys, if there are several."""
    found = {parts.adapter for key in keys if (parts := split_key(key)) is not None and parts.adapter is not None}
    return sorted(filter(None, found)) if len(found) > 1 else []


def _precedence(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


_Spellings = dict[str, dict[str, tuple[str, torch.Tensor]]]
"""A module's name in the file to its parts, each with its key."""


def _by_spelling(
    keys: Mapping[str, Key], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> dict[str, _Spellings]:
    family, sgm = _naming(keys, tensors, metadata)
    out: dict[str, _Spellings] = {}
    for key, found in keys.items():
        value = tensors[key]
        if found.magnitude:
            value = value.reshape(-1, *[1] * (max(value.ndim, 2) - 1))
        parts = out.setdefault(_module(found, family, sgm), {}).setdefault(found.spelled, {})
        parts[found.part] = key, value
    return out


def _one_spelling(spellings: _Spellings, left_out: LeftOut) -> tuple[str, dict[str, torch.Tensor]]:
    """A module's name in the file and its parts. Of two names with the same weights the one with more parts is used."""
    ordered = sorted(spellings, key=lambda spelled: (-len(spellings[spelled]), spelled))
    first = ordered[0]
    parts = dict(spellings[first])
    for spelled in ordered[1:]:
        others = spellings[spelled]
        if parts.keys().isdisjoint(others):  # alpha under one name, the matrices under another
            parts |= others
            continue
        for key, _ in others.values():
            left_out.add("a second name for weights that are already read", key)
    return first, {part: value for part, (_, value) in parts.items()}


def _naming(
    keys: Mapping[str, Key], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[Family | None, bool]:
    """The family that the file is for, and whether its UNet's names become `sgm`'s: only for the real SDXL's shape,
    since smaller models of its design number their blocks differently."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key, found in keys.items():
        modules.setdefault(f"{found.prefix}{found.path}", {})[found.part] = tensors[key]
    family = family_of(modules, metadata, flat=all(found.layout == "kohya" for found in keys.values()))
    if family != SDXL:
        return known_family(family), False
    wide = any(input_width(parts) == 2048 for name, parts in modules.items() if name.endswith("to_k"))
    return known_family(family), wide or has_deep_transformers(modules)


def _module(key: Key, family: Family | None, sgm: bool) -> str:
    """The module's name in kohya's files. In other layouts parts of two families have the same name."""
    prefix, component = key.prefix, component_of(key.prefix)
    if family is not None and prefix == f"{shared_prefix(component)}_":
        prefix = next((f"{side.prefix}_" for side in family.sides if side.component == component), prefix)
    other = family is not None and family.owns is not None
    if other or is_text(prefix) or (family is not None and family.title == SDXL) != sgm:
        return flat_name(prefix, key.path)
    return flat_name(prefix, canonical_path(key.path, sgm))
