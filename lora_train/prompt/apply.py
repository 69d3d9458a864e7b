"""Apply LoRA files to a model by adding their deltas to the weights, and remove them exactly.

Works on this package's models and on diffusers pipelines. The changed weights are kept as they
were, so that removing restores the same bits, whatever was added in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_train.errors import LoraTrainError
from lora_train.lorafile.base_model import made_for
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.models.names import all_layers
from lora_train.networks.base import NetworkModule
from lora_train.networks.registry import kind_of, load_network
from lora_train.prompt.syntax import LoraTag


def modules_by_file_name(model: Any) -> dict[str, nn.Module]:
    """The modules of this package's models and of diffusers pipelines, by the names that LoRA files use.

    SDXL's are there under both names that files have for them.
    """
    encoders = [getattr(model, name, None) for name in ("text_encoder", "text_encoder_2")]
    return all_layers(model.unet, [encoder for encoder in encoders if encoder is not None])


@dataclass(frozen=True)
class Applied:
    """A network as it was applied; `unmatched` are modules that the model does not have, `unknown` those whose keys
    are of no known kind."""

    tag: LoraTag
    path: Path
    unmatched: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    short_hash: str = ""
    """The first 12 digits of the file's hash, as the WebUI shows it."""


@dataclass
class Applier:
    """Networks on the modules of one model, by the names in files (see `modules_by_file_name`).

    `apply` replaces what was applied before; `remove` takes all off. The weights' originals are kept in
    the computer's memory.
    """

    modules: dict[str, nn.Module]
    """A module may be there under several names; the first is what it is known by."""
    _originals: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    _on_now: list[tuple[LoraTag, Path, float]] = field(default_factory=list)
    _applied: list[Applied] = field(default_factory=list)

    def __post_init__(self) -> None:
        first: dict[int, str] = {}
        self._known_as = {name: first.setdefault(id(module), name) for name, module in self.modules.items()}

    def apply(self, networks: Sequence[tuple[LoraTag, Path]]) -> list[Applied]:
        """Apply all of `networks`, and nothing else. The same one twice counts twice.

        Raises LoraTrainError, the model left without networks, when a file cannot be read or fits
        no module of the model.
        """
        wanted = [(tag, path, _changed_at(path)) for tag, path in networks]
        if wanted == self._on_now:
            return self._applied
        self.remove()
        try:
            self._applied = [self.add(tag, read_lora(path)) for tag, path in networks]
        except BaseException:
            self.remove()
            raise
        self._on_now = wanted
        return self._applied

    def apply_usable(self, networks: Sequence[tuple[LoraTag, Path]]) -> tuple[list[Applied], list[str]]:
        """As `apply`, but what cannot be applied is left out; returns what was applied, and a note for each other."""
        try:
            applied = self.apply(networks)
        except LoraTrainError:
            pass
        else:
            return applied, _unknown_notes(applied)
        usable, notes = [], []
        for tag, path in networks:
            try:
                self.apply([(tag, path)])
                usable.append((tag, path))
            except LoraTrainError as error:
                notes.append(f"<lora:{tag.name}> is left out. {error}")
        applied = self.apply(usable)
        return applied, notes + _unknown_notes(applied)

    @torch.no_grad()
    def remove(self) -> None:
        """Put back every weight and bias that was changed, bit for bit."""
        for (name, attribute), original in self._originals.items():
            self._value(name, attribute).copy_(original)
        self.forget()

    def forget(self) -> None:
        """Take the weights as they are now for the original ones (others have been loaded into the modules)."""
        self._originals.clear()
        self._on_now, self._applied = [], []

    def _value(self, name: str, attribute: str) -> torch.Tensor:
        value = getattr(self.modules[name], attribute)
        assert isinstance(value, torch.Tensor)
        return value

    @torch.no_grad()
    def add(self, tag: LoraTag, file: LoraFile) -> Applied:
        """Apply a file's networks to what is there; the next `apply` takes them off.

        Raises LoraTrainError when it fits no module of the model.
        """
        loaded, unmatched, unknown = self._load(file)
        for name, network in loaded.items():
            strength = tag.te if name.startswith("lora_te") else tag.unet
            if strength == 0:
                continue
            if tag.dyn is not None:
                network.cut(tag.dyn)
            weight = self._original(name, "weight")
            network.to(weight.device)
            self._change(name, "weight", strength * network.weight_delta(weight))
            bias = network.bias_delta()
            if bias is not None:
                self._original(name, "bias")
                self._change(name, "bias", strength * bias)
        short = file.metadata.get("sshs_model_hash", "")[:12]
        return Applied(tag, file.path, tuple(unmatched), tuple(unknown), short)

    def _original(self, name: str, attribute: str) -> torch.Tensor:
        """The value without any network, fp32, on the module's device; kept from the first time on.

        Kinds that multiply are relative to it, so that strengths add up and the order of networks does not matter.
        """
        value, key = self._value(name, attribute), (name, attribute)
        if key not in self._originals:
            self._originals[key] = value.detach().to("cpu", copy=True)
            return value.float()
        return self._originals[key].to(value.device).float()

    def _change(self, name: str, attribute: str, delta: torch.Tensor) -> None:
        value = self._value(name, attribute)
        # summed in fp32, so that a half-precision weight is rounded once per network
        value.copy_(value.float() + delta)

    def _load(self, file: LoraFile) -> tuple[dict[str, NetworkModule], list[str], list[str]]:
        """The file's networks by module, the modules that this model lacks, and those of no known kind."""
        loaded: dict[str, NetworkModule] = {}
        unmatched, unknown, unfit = [], [], []
        for name, tensors in file.by_module().items():
            if kind_of(tensors) is None:
                unknown.append(f"{name} ({', '.join(sorted(tensors))})")
            elif name not in self.modules:
                unmatched.append(name)
            else:
                try:
                    loaded[self._known_as[name]] = load_network(self.modules[name], tensors)
                except ValueError as error:
                    unfit.append(f"{name}: {error}")
        if unfit or (unmatched and not loaded):
            reason = unfit[0] if unfit else f"no module is called {unmatched[0]}"
            raise LoraTrainError(
                f"this LoRA was made for another base model{_named(made_for(file))} ({reason}).",
                str(file.path),
                "Use it with its own base.",
            )
        if not loaded:
            named = unknown[0] if unknown else "it is empty"
            raise LoraTrainError(
                f"this file has no network of a known kind ({named}).", str(file.path), "Convert it to kohya's format."
            )
        return loaded, unmatched, unknown


def _unknown_notes(applied: Sequence[Applied]) -> list[str]:
    return [
        f"<lora:{one.tag.name}>: {len(one.unknown)} of its modules are of no known kind and are left out: "
        f"{one.unknown[0]}{' ...' if len(one.unknown) > 1 else ''}."
        for one in applied
        if one.unknown
    ]


def _named(base: str) -> str:
    return f", {base}" if base else ""


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
