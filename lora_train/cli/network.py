"""The network's options at the command line: `--algo`, the flags people use most, and `--args NAME=VALUE` for all."""

from __future__ import annotations

import argparse
from typing import Any

from lora_train.config import NetworkOptions, kohya
from lora_train.config.arguments import ALGORITHMS, named_network
from lora_train.errors import LoraTrainError


def add_network(train: Any) -> None:
    """The group of options about the network."""
    group = train.add_argument_group("network")
    group.add_argument(
        "--algo", "--type", default="lora", choices=tuple(ALGORITHMS), help="kind of network (default %(default)s)"
    )
    group.add_argument("--network_module", default="", help=argparse.SUPPRESS)  # sd-scripts' way to say --algo
    group.add_argument(
        "--args",
        nargs="*",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="any option of the network, by kohya's or LyCORIS' name: factor=8 rs_lora=true rank_dropout=0.1 ...",
    )
    group.add_argument("--dropout", type=float, metavar="P", help="chance that a value inside the LoRA is left out")
    group.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="RULE",
        help="'PATTERN: dim=8 alpha=4 lr=1e-5 kind=lokr' or 'PATTERN: off', for modules whose name has the pattern",
    )
    group.add_argument("--continue", dest="go_on_from", metavar="FILE", help="go on from this LoRA, with its ranks")
    group.add_argument(
        "--adapter", default="", metavar="NAME", help="the one to take of several adapters in such files"
    )
    group.add_argument(
        "--merge-base",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="merge a LoRA into the base model first; may be repeated",
    )
    group.add_argument("--unet-only", action="store_true", help="train no text encoder")
    group.add_argument("--text-only", action="store_true", help="train no UNet")
    group.add_argument("--stop-text", type=int, metavar="N", help="train the text encoder for N steps only")
    group.add_argument("--max-norm", type=float, metavar="NORM", help="hold each module's change to this norm")


def network_of(options: argparse.Namespace) -> NetworkOptions:
    """The network that the options ask for. Raises LoraTrainError that names every argument that is not understood."""
    merged = [_with_strength(text) for text in options.merge_base]
    network = NetworkOptions(
        network_dim=options.dim,
        network_alpha=options.alpha,
        conv_dim=options.conv_dim,
        conv_alpha=options.conv_alpha,
        network_dropout=options.dropout or 0.0,
        network_rules=tuple(options.rule),
        network_weights=options.go_on_from or "",
        network_adapter=options.adapter,
        base_weights=tuple(path for path, _ in merged),
        base_weights_multiplier=tuple(strength for _, strength in merged),
        network_train_unet_only=options.unet_only,
        network_train_text_encoder_only=options.text_only,
        scale_weight_norms=options.max_norm,
    )
    return named_network(network, _algorithm(options), options.args)


def _algorithm(options: argparse.Namespace) -> str:
    module = options.network_module
    if module and module not in kohya.NETWORK_MODULES:
        known = ", ".join(kohya.NETWORK_MODULES)
        raise LoraTrainError(f"{module!r} is not there.", "--network_module", f"Give --algo, or one of: {known}.")
    return kohya.NETWORK_MODULES[module] if module and options.algo == "lora" else str(options.algo)


def _with_strength(text: str) -> tuple[str, float]:
    """`FILE` or `FILE:0.5`; a colon that no number follows belongs to the path."""
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
