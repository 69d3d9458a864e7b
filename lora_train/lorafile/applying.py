"""Apply LoRA files to a model by adding their deltas to the weights, and remove them exactly.

Works on this package's models and on diffusers pipelines. The original weights are kept, so that removal restores
them bit for bit, whatever was added in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_train.errors import LoraTrainError, Problem
from lora_train.lorafile.base_model import made_for
from lora_train.lorafile.hashes import model_hash
from lora_train.lorafile.layouts import named
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.strengths import Wanted
from lora_train.models.names import all_layers
from lora_train.networks.base import NetworkModule
from lora_train.networks.registry import load_network
from lora_train.records.families import is_text


def modules_by_file_name(model: Any) -> dict[str, nn.Module]:
    """The modules of this package's models and of diffusers pipelines, by the names that LoRA files use.

    SDXL's modules have both of their names in files.
    """
    if hasattr(model, "layers"):
        found: dict[str, nn.Module] = model.layers()
        return found
    encoders = [getattr(model, name, None) for name in ("text_encoder", "text_encoder_2")]
    return all_layers(model.unet, [encoder for encoder in encoders if encoder is not None])


@dataclass(frozen=True)
class Applied:
    """A network as it was applied; `unmatched` are modules that the model does not have."""

    tag: Wanted
    path: Path
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Notes for the person: which parts of the file are ignored, and what was assumed."""
    short_hash: str = ""
    """The first 12 digits of the file's hash, as the WebUI shows it."""


@dataclass
class Applier:
    """Networks on the modules of one model, by the names in files (see `modules_by_file_name`).

    `apply` replaces what was applied before; `remove` removes everything. The original weights are kept in CPU memory.
    """

    modules: dict[str, nn.Module]
    """A module may have several names; the first one is used."""
    _originals: dict[tuple[str, str], torch.Tensor | None] = field(default_factory=dict)
    _on_now: list[tuple[Wanted, Path, float]] = field(default_factory=list)
    _applied: list[Applied] = field(default_factory=list)

    def __post_init__(self) -> None:
        first: dict[int, str] = {}
        self._known_as = {name: first.setdefault(id(module), name) for name, module in self.modules.items()}

    def apply(self, networks: Sequence[tuple[Wanted, Path]]) -> list[Applied]:
        """Apply all of `networks`, and nothing else. The same one twice is applied twice.

        Raises LoraTrainError, with all networks removed, when a file cannot be read or fits no module of the model.
        """
        wanted = [(tag, path, _changed_at(path)) for tag, path in networks]
        if wanted == self._on_now:
            return self._applied
        self.remove()
        try:
            self._applied = [self.add(tag, read_lora(path, adapter=tag.adapter)) for tag, path in networks]
        except BaseException:
            self.remove()
            raise
        self._on_now = wanted
        return self._applied

    def apply_usable(
        self, networks: Sequence[tuple[Wanted, Path]], problems: list[Problem] | None = None
    ) -> tuple[list[Applied], list[str]]:
        """Like `apply`, but networks that cannot be applied are left out, with a note for each.

        Returns the applied ones and the notes; the errors are added to `problems`."""
        try:
            applied = self.apply(networks)
        except LoraTrainError:
            pass
        else:
            return applied, _notes(applied)
        usable, notes = [], []
        for tag, path in networks:
            try:
                self.apply([(tag, path)])
                usable.append((tag, path))
            except LoraTrainError as error:
                notes.append(f"<lora:{tag.name}> is left out. {error}")
                if problems is not None:
                    problems += error.problems
        applied = self.apply(usable)
        return applied, notes + _notes(applied)

    @torch.no_grad()
    def remove(self) -> None:
        """Restore every changed weight and bias, bit for bit."""
        for (name, attribute), original in self._originals.items():
            if original is None:
                setattr(self.modules[name], attribute, None)
            else:
                self._value(name, attribute).copy_(original)
        self.forget()

    def forget(self) -> None:
        """Treat the present weights as the original ones (others have been loaded into the modules)."""
        self._originals.clear()
        self._on_now, self._applied = [], []

    def _value(self, name: str, attribute: str) -> torch.Tensor:
        value = getattr(self.modules[name], attribute)
        assert isinstance(value, torch.Tensor)
        return value

    @torch.no_grad()
    def add(self, tag: Wanted, file: LoraFile) -> Applied:
        """Apply a file's networks in addition; the next `apply` removes them.

        Raises LoraTrainError when it fits no module of the model.
        """
        loaded, unmatched = self._load(file)
        for name, network in loaded.items():
            strength = tag.te if is_text(name) else tag.unet
            if strength == 0:
                continue
            if tag.dyn is not None:
                network.cut(tag.dyn)
            weight = self._original(name, "weight")
            network.to(weight.device)
            self._change(name, "weight", strength * network.weight_delta(weight))
            bias = network.bias_delta()
            if bias is not None:
                self._have_bias(name, bias)
                self._change(name, "bias", strength * bias)
        notes = [*file.notes]
        if unmatched:
            notes.append(f"{len(unmatched)} of its modules are not in this base model ({named(unmatched)}).")
        return Applied(tag, file.path, tuple(unmatched), tuple(notes), model_hash(file.path, file.metadata)[:12])

    def _have_bias(self, name: str, like: torch.Tensor) -> None:
        """Save the original bias, or add a bias of zeros if there is none: peft and the WebUI do so as well."""
        module = self.modules[name]
        if (name, "bias") in self._originals:
            return
        if getattr(module, "bias", None) is not None:
            self._original(name, "bias")
            return
        weight = self._value(name, "weight")
        self._originals[(name, "bias")] = None
        module.bias = nn.Parameter(torch.zeros(like.shape, dtype=weight.dtype, device=weight.device), False)

    def _original(self, name: str, attribute: str) -> torch.Tensor:
        """The value without any network, fp32, on the module's device; a copy is kept from the first call on.

        Kinds that multiply are relative to it, so that strengths add up and the order of networks does not matter.
        """
        value, key = self._value(name, attribute), (name, attribute)
        original = self._originals.get(key)
        if original is None:
            self._originals[key] = value.detach().to("cpu", copy=True)
            return value.float()
        return original.to(value.device).float()

    def _change(self, name: str, attribute: str, delta: torch.Tensor) -> None:
        value = self._value(name, attribute)
        # summed in fp32, so that a half-precision weight is rounded once per network
        value.copy_(value.float() + delta)

    def _load(self, file: LoraFile) -> tuple[dict[str, NetworkModule], list[str]]:
        """The file's networks by module, and the modules that this model lacks."""
        loaded: dict[str, NetworkModule] = {}
        unmatched, unfit = [], []
        for name, tensors in file.by_module().items():
            if name not in self.modules:
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
        return loaded, unmatched


def _notes(applied: Sequence[Applied]) -> list[str]:
    """Each file's notes once, however often it is in the prompt."""
    return list(dict.fromkeys(f"<lora:{one.tag.name}>: {note}" for one in applied for note in one.notes))


def _named(base: str) -> str:
    return f", {base}" if base else ""


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
