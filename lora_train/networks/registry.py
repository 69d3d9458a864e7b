"""All kinds of networks. Adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import Form, NetworkKind, NetworkModule
from lora_train.networks.bias import BiasModule
from lora_train.networks.boft import Boft
from lora_train.networks.dora import KEY as DORA
from lora_train.networks.dora import load_dora, new_dora
from lora_train.networks.full import BIAS, Full, load_bias
from lora_train.networks.glora import Glora
from lora_train.networks.ia3 import Ia3
from lora_train.networks.loha import Loha
from lora_train.networks.lokr import Lokr
from lora_train.networks.lora import Lora
from lora_train.networks.norm import Norm
from lora_train.networks.oft import Oft
from lora_train.networks.sparse import KEYS as SPARSE
from lora_train.networks.sparse import load_sparse

KINDS: dict[str, NetworkKind] = {
    kind.name: kind for kind in (Lora(), Loha(), Lokr(), Oft(), Boft(), Ia3(), Glora(), Full(), Norm())
}


def kind_of(tensors: Mapping[str, torch.Tensor]) -> NetworkKind | None:
    """The kind of one module's tensors (by the keys' last parts); None when it is unknown."""
    plain = _plain(tensors)
    return next((kind for kind in KINDS.values() if kind.recognises(tensors) or kind.recognises(plain)), None)


def known_parts(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """Those of one module's parts that its kind has; empty when it is of no known kind, whatever is left out."""
    for kind in KINDS.values():
        its = {name: value for name, value in tensors.items() if name in kind.parts}
        if kind.recognises(its):
            wrappers = {DORA, BIAS} | ({*SPARSE} if tensors.keys() >= {*SPARSE} else set())
            return its.keys() | (tensors.keys() & wrappers)
    return set()


def new_network(kind: str, target: nn.Module, form: Form, generator: torch.Generator) -> NetworkModule:
    """A new network beside `target`, whose delta is zero. Raises ValueError when `form` does not fit it."""
    network = KINDS[kind].create(target, form, generator)
    return new_dora(network, target, form.wd_on_output) if form.dora_wd else network


def load_network(target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> NetworkModule:
    """The network that a file has for `target`. Raises ValueError when it is of no known kind or does not fit."""
    kind = kind_of(tensors)
    if kind is None:
        raise ValueError(f"no kind of network has the keys {', '.join(sorted(tensors))}")
    if not isinstance(target, kind.bases):
        raise ValueError(f"a {kind.name} network does not fit a {type(target).__name__}")
    if kind.recognises(tensors):
        return kind.load(target, tensors)
    network = kind.load(target, _plain(tensors))
    if SPARSE[0] in tensors:
        network = load_sparse(network, target, tensors)
    if DORA in tensors:
        network = load_dora(network, target, tensors)
    bias = load_bias(target, tensors, BIAS)
    return network if bias is None else BiasModule(network, bias)


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what other networks are wrapped in."""
    return {name: value for name, value in tensors.items() if name not in (DORA, BIAS, *SPARSE)}
