"""Networks of every kind: created, recognised and loaded. Everything else about kinds is in `records.kinds`."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import Form, NetworkKind, NetworkModule
from lora_train.networks.bias import BiasModule
from lora_train.networks.dora import KEY as DORA
from lora_train.networks.dora import load_dora, new_dora
from lora_train.networks.full import BIAS, load_bias
from lora_train.networks.sparse import KEYS as SPARSE
from lora_train.networks.sparse import load_sparse
from lora_train.records.kind import Kind
from lora_train.records.kinds import KINDS, kind_within
from lora_train.records.table import load


def network_kind(name: str) -> NetworkKind:
    """The class that creates and loads networks of this kind, imported on first use. Raises KeyError."""
    return _implemented(KINDS[name].implementation)


@functools.lru_cache
def _implemented(implementation: str) -> NetworkKind:
    kind: NetworkKind = load(implementation)()
    return kind


def kind_of(tensors: Mapping[str, torch.Tensor]) -> Kind | None:
    """The kind of one module's tensors (by the keys' last parts); None when it is unknown."""
    plain = _plain(tensors)
    return next((kind for kind in KINDS.values() if kind.recognises(tensors) or kind.recognises(plain)), None)


def known_parts(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """The parts of one module that belong to its kind; empty when no subset of them is of a known kind."""
    kind = kind_within(tensors)
    if kind is None:
        return set()
    wrappers = {DORA, BIAS} | ({*SPARSE} if tensors.keys() >= {*SPARSE} else set())
    return kind.its(tensors).keys() | (tensors.keys() & wrappers)


def new_network(kind: str, target: nn.Module, form: Form, generator: torch.Generator) -> NetworkModule:
    """A new network beside `target`, whose delta is zero. Raises ValueError when `form` does not fit it."""
    network = network_kind(kind).create(target, form, generator)
    return new_dora(network, target, form.wd_on_output) if form.dora_wd else network


def load_network(target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> NetworkModule:
    """The network of a file for `target`. Raises ValueError when its kind is unknown or it does not fit."""
    kind = kind_of(tensors)
    if kind is None:
        raise ValueError(f"no kind of network has the keys {', '.join(sorted(tensors))}")
    made = network_kind(kind.name)
    if not isinstance(target, made.bases):
        raise ValueError(f"a {kind.name} network does not fit a {type(target).__name__}")
    if kind.recognises(tensors):
        return made.load(target, tensors)
    network = made.load(target, _plain(tensors))
    if SPARSE[0] in tensors:
        network = load_sparse(network, target, tensors)
    if DORA in tensors:
        network = load_dora(network, target, tensors)
    bias = load_bias(target, tensors, BIAS)
    return network if bias is None else BiasModule(network, bias)


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without those of wrappers around a network."""
    return {name: value for name, value in tensors.items() if name not in (DORA, BIAS, *SPARSE)}
