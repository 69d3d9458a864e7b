"""The network's options at the command line: `--algo` by its many names, and `--args NAME=VALUE`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from lora_train.cli.options import given
from lora_train.config import NetworkOptions, kohya
from lora_train.config.arguments import named_network
from lora_train.errors import LoraTrainError


def add_network(group: Any) -> None:
    """Add what belongs to the network's group besides the table's options."""
    group.add_argument("--network_module", default="", help=argparse.SUPPRESS)  # sd-scripts' equivalent of --algo
    group.add_argument(
        "--args",
        nargs="*",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="any option of the network, by kohya's or LyCORIS' name: factor=8 rs_lora=true rank_dropout=0.1 ...",
    )


def network_of(options: argparse.Namespace, before: NetworkOptions) -> NetworkOptions:
    """`before` changed by the flags. Raises LoraTrainError that names every argument that is not understood."""
    values = given(options, "network")
    algorithm = _algorithm(options, values.pop("kind", ""))
    if "base_weights" in values:
        merged = [_with_strength(text) for text in values["base_weights"]]
        values["base_weights"] = tuple(path for path, _ in merged)
        values["base_weights_multiplier"] = tuple(strength for _, strength in merged)
    if algorithm:
        before = replace(before, kind=NetworkOptions().kind, dora_wd=NetworkOptions().dora_wd)
    return named_network(replace(before, **values), algorithm or NetworkOptions().kind, options.args)


def _algorithm(options: argparse.Namespace, given: str) -> str:
    """The name given with --algo, or in sd-scripts' way; "" without either."""
    module = options.network_module
    if module and module not in kohya.NETWORK_MODULES:
        known = ", ".join(kohya.NETWORK_MODULES)
        raise LoraTrainError(f"there is no module {module!r}.", "--network_module", f"Give --algo, or one of: {known}.")
    plain = NetworkOptions().kind
    return kohya.NETWORK_MODULES[module] if module and given in ("", plain) else given


def _with_strength(text: str) -> tuple[str, float]:
    """`FILE` or `FILE:0.5`; a colon without a number behind it belongs to the path."""
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
