"""The network's options at the command line: `--algo` by its many names, and `--args NAME=VALUE`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from lora_train.cli.options import given
from lora_train.config import NetworkOptions, kohya
from lora_train.config.arguments import merged_files, named_network
from lora_train.config.registered import changed
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
        values |= merged_files(values["base_weights"])
    if algorithm:
        before = replace(before, kind=NetworkOptions().kind, dora_wd=NetworkOptions().dora_wd)
    return named_network(changed(before, values), algorithm or NetworkOptions().kind, options.args)


def _algorithm(options: argparse.Namespace, given: str) -> str:
    """The name that is given with --algo, else in sd-scripts' way; "" where none is."""
    module, modules = options.network_module, kohya.network_modules()
    if module and module not in modules:
        known = ", ".join(modules)
        raise LoraTrainError(f"{module!r} is not there.", "--network_module", f"Give --algo, or one of: {known}.")
    plain = NetworkOptions().kind
    return modules[module] if module and given in ("", plain) else given
