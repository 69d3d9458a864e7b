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
from lora_train.networks.registry import kind_of
from lora_train.prompt.syntax import LoraTag


def modules_by_file_name(model: Any) -> dict[str, nn.Module]:
    """The modules of this package's models and of diffusers pipelines, by the names that LoRA files use.

    SDXL's are there under both names that files have for them.
    """
    encoders = [getattr(model, name, None) for name in ("text_encoder", "text_encoder_2")]
    return all_layers(model.unet, [encoder for encoder in encoders if encoder is not None])


@dataclass(frozen=True)
class Applied:
    """A network as it was applied; `unmatched` are modules that the model does not have."""

    tag: LoraTag
    path: Path
    unmatched: tuple[str, ...] = ()
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
    _originals: dict[str, torch.Tensor] = field(default_factory=dict)
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
            self._applied = [self._add(tag, read_lora(path)) for tag, path in networks]
        except BaseException:
            self.remove()
            raise
        self._on_now = wanted
        return self._applied

    def apply_usable(self, networks: Sequence[tuple[LoraTag, Path]]) -> tuple[list[Applied], list[str]]:
        """As `apply`, but what cannot be applied is left out; returns what was applied, and a note for each other."""
        try:
            return self.apply(networks), []
        except LoraTrainError:
            pass
        usable, notes = [], []
        for tag, path in networks:
            try:
                self.apply([(tag, path)])
                usable.append((tag, path))
            except LoraTrainError as error:
                notes.append(f"<lora:{tag.name}> is left out. {error}")
        return self.apply(usable), notes

    @torch.no_grad()
    def remove(self) -> None:
        """Put back every weight that was changed, bit for bit."""
        for name, original in self._originals.items():
            self._weight(name).copy_(original)
        self.forget()

    def forget(self) -> None:
        """Take the weights as they are now for the original ones (others have been loaded into the modules)."""
        self._originals.clear()
        self._on_now, self._applied = [], []

    def _weight(self, name: str) -> torch.Tensor:
        weight = self.modules[name].weight
        assert isinstance(weight, torch.Tensor)
        return weight

    @torch.no_grad()
    def _add(self, tag: LoraTag, file: LoraFile) -> Applied:
        loaded, unmatched = self._load(file)
        for name, network in loaded.items():
            strength = tag.te if name.startswith("lora_te") else tag.unet
            if strength == 0:
                continue
            weight = self._weight(name)
            if name not in self._originals:
                self._originals[name] = weight.detach().to("cpu", copy=True)
            delta = network.weight_delta(weight)
            # summed in fp32, so that a half-precision weight is rounded once per network
            weight.copy_(weight.float() + strength * delta.to(weight.device))
        return Applied(tag, file.path, tuple(unmatched), file.metadata.get("sshs_model_hash", "")[:12])

    def _load(self, file: LoraFile) -> tuple[dict[str, NetworkModule], list[str]]:
        """The file's networks by module, and the modules that this model lacks."""
        loaded: dict[str, NetworkModule] = {}
        unmatched, unfit = [], []
        for name, tensors in file.by_module().items():
            kind = kind_of(frozenset(tensors))
            if kind is None or name not in self.modules:
                unmatched.append(name)
                continue
            try:
                loaded[self._known_as[name]] = kind.load(self.modules[name], tensors)
            except ValueError as error:
                unfit.append(f"{name}: {error}")
        if unfit or not loaded:
            reason = f"{unfit[0]}" if unfit else f"no module is called {unmatched[0] if unmatched else '?'}"
            raise LoraTrainError(
                f"this LoRA was made for another base model{_named(made_for(file))} ({reason}).",
                str(file.path),
                "Use it with its own base.",
            )
        return loaded, unmatched


def _named(base: str) -> str:
    return f", {base}" if base else ""


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
