"""All kinds of networks. Adding one is one file and one line here."""

from __future__ import annotations

from lora_train.networks.base import NetworkKind
from lora_train.networks.lora import Lora

KINDS: dict[str, NetworkKind] = {kind.name: kind for kind in (Lora(),)}


def kind_of(keys: frozenset[str]) -> NetworkKind | None:
    """The kind that one module's keys (last parts) belong to; None when it is unknown."""
    return next((kind for kind in KINDS.values() if kind.recognises(keys)), None)
