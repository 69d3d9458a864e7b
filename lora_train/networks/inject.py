"""Networks on a base model: chosen targets, one network each, added to the outputs by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from lora_train.networks.base import NetworkModule
from lora_train.networks.registry import KINDS


class HasTargets(Protocol):
    """What injection needs of a model."""

    def roots(self) -> dict[str, nn.Module]:
        """Root modules by prefix."""
        ...

    def module_names(self, convolutions: bool = False) -> dict[str, str]:
        """File name of each target to "prefix:path"."""
        ...


@dataclass(frozen=True)
class Size:
    """Rank and alpha of a network."""

    rank: int
    alpha: float


def targets(model: HasTargets, convolutions: bool = False) -> dict[str, nn.Module]:
    """The base modules that networks attach to, by their name in files."""
    roots = model.roots()
    found = {}
    for name, place in model.module_names(convolutions).items():
        prefix, path = place.split(":", 1)
        found[name] = roots[prefix].get_submodule(path)
    return found


class NetworkSet(nn.Module):
    """One network per target. `multiplier` scales them all; 0 leaves the base exactly as it is.

    The multiplier must not change between a row's forward and backward pass: gradient checkpointing
    runs the forward again.
    """

    def __init__(self, networks: dict[str, NetworkModule], bases: dict[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.multiplier = 1.0
        self._bases = {name: bases[name] for name in networks}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self) -> None:
        """Hook every network to its base module."""
        for name, network in self.networks.items():
            handle = self._bases[name].register_forward_hook(self._hook(network))
            self._handles.append(handle)

    def detach(self) -> None:
        """Unhook all; the base modules are as they were."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, network: nn.Module) -> Callable[..., Any]:
        def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if self.multiplier == 0.0:
                return None
            delta = network.output_delta(inputs[0])  # type: ignore[operator]
            return output + self.multiplier * delta.to(output.dtype)  # type: ignore[no-any-return]

        return add

    @contextmanager
    def at(self, multiplier: float) -> Iterator[None]:
        """Within the block the networks count `multiplier` times."""
        before = self.multiplier
        self.multiplier = multiplier
        try:
            yield
        finally:
            self.multiplier = before

    def parameters_of(self, prefix: str) -> list[nn.Parameter]:
        """The trainable weights of the networks on one root ("lora_unet", "lora_te")."""
        return [p for name, net in self.networks.items() if name.startswith(prefix + "_") for p in net.parameters()]

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """All tensors under their file names, fp32, sorted."""
        tensors = {}
        for name, network in self.networks.items():
            for part, value in network.file_tensors().items():  # type: ignore[operator]
                tensors[f"{name}.{part}"] = value.float().cpu()
        return dict(sorted(tensors.items()))


def create_networks(
    model: HasTargets,
    kind: str,
    size: Size,
    generator: torch.Generator,
    prefixes: tuple[str, ...],
    convolutions: Size | None = None,
) -> NetworkSet:
    """New networks on all targets whose names start with one of `prefixes`, not yet attached.

    `convolutions` is the size on 3x3 convolutions; None leaves them, and all blocks but the transformers', alone.
    """
    bases = {
        name: base
        for name, base in targets(model, convolutions is not None).items()
        if any(name.startswith(prefix + "_") for prefix in prefixes)
    }
    networks = {}
    for name, base in sorted(bases.items()):
        large = isinstance(base, nn.Conv2d) and base.kernel_size != (1, 1)
        its = convolutions if large and convolutions is not None else size
        networks[name] = KINDS[kind].create(base, its.rank, its.alpha, generator)
    return NetworkSet(networks, bases)
