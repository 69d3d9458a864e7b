"""Networks on a base model: chosen targets, one network each, added to the outputs by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from lora_train.errors import LoraTrainError, Problem
from lora_train.networks.base import Drop, Form, NetworkModule
from lora_train.networks.plan import Part
from lora_train.networks.registry import load_network, new_network

Dropping = Callable[[str], "Drop | None"]
"""A network's name to what it drops now; None: the whole network."""


class HasTargets(Protocol):
    """The part of a model that injection needs."""

    def roots(self) -> dict[str, nn.Module]:
        """Root modules by prefix."""
        ...

    def module_names(self, convolutions: bool = False, norms: bool = False) -> dict[str, str]:
        """File name of each target to "prefix:path"."""
        ...


def targets(model: HasTargets, convolutions: bool = False, norms: bool = False) -> dict[str, nn.Module]:
    """The base modules that networks are attached to, by their names in files."""
    roots = model.roots()
    found = {}
    for name, place in model.module_names(convolutions, norms).items():
        prefix, path = place.split(":", 1)
        found[name] = roots[prefix].get_submodule(path)
    return found


class NetworkSet(nn.Module):
    """One network per target. `multiplier` scales them all; 0 leaves the base exactly unchanged.

    The multiplier and what is dropped must not change between a row's forward and backward pass: gradient
    checkpointing runs the forward again.
    """

    def __init__(self, networks: Mapping[str, NetworkModule], bases: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.multiplier = 1.0
        self.joined = True
        """Whether a network may add to the output within its last product, or only afterwards."""
        self._dropping: Dropping | None = None
        self._bases = {name: bases[name] for name in networks}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self) -> None:
        """Hook every network to its base module."""
        for name, network in self.networks.items():
            assert isinstance(network, NetworkModule)
            handle = self._bases[name].register_forward_hook(self._hook(name, network))
            self._handles.append(handle)

    def detach(self) -> None:
        """Remove all hooks; the base modules are unchanged again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str, network: NetworkModule) -> Callable[..., Any]:
        def add(base: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if self.multiplier == 0.0:
                return None
            drop = None
            if self._dropping is not None:
                drop = self._dropping(name)
                if drop is None:
                    return None
            add_to = network.add_to if self.joined else partial(NetworkModule.add_to, network)
            return add_to(output, base, inputs[0], self.multiplier, drop)

        return add

    @contextmanager
    def at(self, multiplier: float) -> Iterator[None]:
        """Within the block the networks are applied with `multiplier`."""
        before = self.multiplier
        self.multiplier = multiplier
        try:
            yield
        finally:
            self.multiplier = before

    @contextmanager
    def dropping(self, what: Dropping | None) -> Iterator[None]:
        """Within the block each network drops what `what` returns; None: nothing."""
        before = self._dropping
        self._dropping = what
        try:
            yield
        finally:
            self._dropping = before

    def named(self, prefix: str = "") -> dict[str, NetworkModule]:
        """The networks on one root ("lora_unet", "lora_te"), or all, by their name in files."""
        start = prefix + "_" if prefix else ""
        return {
            name: net
            for name, net in self.networks.items()
            if name.startswith(start) and isinstance(net, NetworkModule)
        }

    def parameters_of(self, prefix: str) -> list[nn.Parameter]:
        """The trainable weights of the networks on one root."""
        return [p for network in self.named(prefix).values() for p in network.parameters()]

    @torch.no_grad()
    def limit_norms(self, highest: float) -> int:
        """Shrink every network whose delta has a larger norm than `highest`; returns how many were.

        Max-norm regularisation as kohya's `scale_weight_norms`. Raises NotImplementedError for kinds whose delta
        cannot be scaled.
        """
        shrunk = 0
        for name, network in self.named().items():
            weight = self._bases[name].weight
            assert isinstance(weight, torch.Tensor)
            norm = float(torch.linalg.vector_norm(network.weight_delta(weight)))
            if norm > highest:
                network.shrink(highest / norm)
                shrunk += 1
        return shrunk

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by their keys in files, fp32, sorted."""
        tensors = {}
        for name, network in self.named().items():
            for part, value in network.file_tensors().items():
                tensors[f"{name}.{part}"] = value.float().cpu()
        return dict(sorted(tensors.items()))


def create_planned(model: HasTargets, plan: Mapping[str, Part], generator: torch.Generator) -> NetworkSet:
    """The networks of a plan (see `plan.plan_of`), not yet attached.

    Raises LoraTrainError that names all modules whose size does not allow the planned network.
    """
    bases = targets(model, convolutions=True, norms=True)
    networks: dict[str, NetworkModule] = {}
    problems = []
    for name, part in sorted(plan.items()):
        try:
            networks[name] = new_network(part.kind, bases[name], part.form, generator)
        except ValueError as error:
            problems.append(Problem(f"{part.kind} on {name}: {error}.", "network", "Choose another dimension or kind."))
    if problems:
        raise LoraTrainError.of(problems[:5])
    return NetworkSet(networks, bases)


def create_networks(
    model: HasTargets,
    kind: str,
    form: Form,
    generator: torch.Generator,
    prefixes: tuple[str, ...],
    convolutions: Form | None = None,
) -> NetworkSet:
    """The same kind on all targets whose names start with one of `prefixes`, not yet attached.

    `convolutions` is the form on 3x3 convolutions; None: none on these, nor outside the transformers' blocks.
    """
    plan = {}
    for name, base in targets(model, convolutions is not None).items():
        large = isinstance(base, nn.Conv2d) and base.kernel_size != (1, 1)
        its = convolutions if large and convolutions is not None else form
        if any(name.startswith(prefix + "_") for prefix in prefixes):
            plan[name] = Part(kind, its)
    return create_planned(model, plan, generator)


def load_networks(
    model: HasTargets, modules: Mapping[str, Mapping[str, torch.Tensor]], prefixes: tuple[str, ...], where: str
) -> NetworkSet:
    """The networks of a file (its tensors by module and part), with their kinds and ranks, not yet attached.

    Only modules with one of `prefixes` are loaded. Raises LoraTrainError that names what does not fit, or when none is
    left.
    """
    bases = targets(model, convolutions=True, norms=True)
    networks: dict[str, NetworkModule] = {}
    problems = []
    for name, tensors in sorted(modules.items()):
        if not any(name.startswith(prefix + "_") for prefix in prefixes):
            continue
        try:
            if name not in bases:
                raise ValueError("the base model has no such module that can be trained")
            networks[name] = load_network(bases[name], tensors)
        except ValueError as error:
            problems.append(Problem(f"{name}: {error}.", where, "Give a LoRA that was made for this base model."))
    if not networks and not problems:
        problems = [Problem(f"it has nothing for {' or '.join(prefixes)}.", where, "Train what it has networks for.")]
    if problems:
        raise LoraTrainError.of(problems[:5])
    return NetworkSet(networks, bases)
