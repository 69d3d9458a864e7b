"""The network's options as text: other names for its kinds, and `NAME=VALUE` for every option."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lora_train.config.registered import changed
from lora_train.config.run import NetworkOptions, suggestion
from lora_train.config.table import in_section
from lora_train.config.usual import DEFAULT_DIM
from lora_train.config.values import parse
from lora_train.errors import LoraTrainError, Problem
from lora_train.records.kinds import KINDS

LOCON = "locon"
"""lora with convolutions; see `named_network`."""

OTHER_NAMES = {
    "algo": "kind",
    "dim": "network_dim",
    "alpha": "network_alpha",
    "dropout": "network_dropout",
    "use_cp": "use_tucker",
    "use_conv_cp": "use_tucker",
}
"""LyCORIS' names of options, and its older names."""


def algorithms() -> dict[str, Mapping[str, Any]]:
    """The options that each name of a kind sets: the kinds' own names, and other names for them."""
    found: dict[str, Mapping[str, Any]] = {}
    usual = NetworkOptions().kind
    for name, kind in KINDS.items():
        own = {} if name == usual else {"kind": name}
        found |= {name: own, **{spelling: own | {**sets} for spelling, sets in kind.spellings.items()}}
    return found


def kind_named(name: str) -> str:
    """The kind with the LyCORIS name `name`; otherwise the name itself."""
    return next((kind.name for kind in KINDS.values() if kind.lycoris == name), name)


def named_network(network: NetworkOptions, algorithm: str, given: list[str]) -> NetworkOptions:
    """`network` with the kind called `algorithm` (see `algorithms`) and the arguments `given` (`NAME=VALUE`).

    The arguments take precedence. Raises LoraTrainError that names every argument that is not understood.
    """
    network = changed(network, {**algorithms()[algorithm], **arguments(given)})
    if algorithm == LOCON and not network.conv_dim:
        network = replace(network, conv_dim=network.network_dim or DEFAULT_DIM)
    return network


def arguments(given: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as values of NetworkOptions' fields.

    Raises LoraTrainError that names all that are not understood.
    """
    hints = {option.name: option.hint for option in in_section("network")}
    values: dict[str, Any] = {}
    problems = []
    for text in given:
        name, equals, value = text.partition("=")
        name = OTHER_NAMES.get(name.strip(), name.strip())
        if not equals or name not in hints:
            what = f"{text!r}: there is no such option of the network."
            near = suggestion(name, [*hints, *OTHER_NAMES])
            problems.append(Problem(what, "--args", near or "Write NAME=VALUE; docs/options.md has all names."))
        elif name == "kind":
            value = kind_named(value)
            values |= algorithms().get(value, {"kind": value}) or {"kind": NetworkOptions().kind}
        else:
            try:
                values[name] = parse(hints[name], value)
            except ValueError as error:
                problems.append(Problem(f"{text!r}: {error}.", "--args", "Give another value."))
    if problems:
        raise LoraTrainError.of(problems)
    return values


def merged_files(given: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Texts `FILE` or `FILE:STRENGTH` as values of NetworkOptions' fields: the files, and their strengths."""
    merged = [_with_strength(text) for text in given]
    return {"base_weights": tuple(path for path, _ in merged), "base_weights_multiplier": tuple(s for _, s in merged)}


def _with_strength(text: str) -> tuple[str, float]:
    """A colon that no number follows belongs to the path."""
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
