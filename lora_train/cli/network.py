"""The network's options at the command line: `--algo`, the flags people use most, and `--args NAME=VALUE` for all."""

from __future__ import annotations

import argparse
import types
import typing
from dataclasses import replace
from typing import Any

from lora_train.config import NetworkOptions
from lora_train.config.network import DEFAULT_DIM
from lora_train.errors import LoraTrainError, Problem

ALGORITHMS: dict[str, dict[str, Any]] = {
    "lora": {},
    "locon": {},
    "dora": {"dora_wd": True},
    "loha": {"kind": "loha"},
    "lokr": {"kind": "lokr"},
    "oft": {"kind": "oft"},
    "boft": {"kind": "boft"},
    "ia3": {"kind": "ia3"},
    "glora": {"kind": "glora"},
    "full": {"kind": "full"},
    "norm": {"kind": "norm"},
}
"""What each name sets; locon is lora with convolutions (see `network_of`)."""

OTHER_NAMES = {
    "algo": "kind",
    "dim": "network_dim",
    "alpha": "network_alpha",
    "dropout": "network_dropout",
    "use_cp": "use_tucker",
    "use_conv_cp": "use_tucker",
}
"""What LyCORIS calls options, and its older names."""


def add_network(train: Any) -> None:
    """The group of options about the network."""
    group = train.add_argument_group("network")
    group.add_argument(
        "--algo", "--type", default="lora", choices=tuple(ALGORITHMS), help="kind of network (default %(default)s)"
    )
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
        base_weights=tuple(path for path, _ in merged),
        base_weights_multiplier=tuple(strength for _, strength in merged),
        network_train_unet_only=options.unet_only,
        network_train_text_encoder_only=options.text_only,
        scale_weight_norms=options.max_norm,
        **ALGORITHMS[options.algo],
    )
    network = replace(network, **arguments(options.args))
    if options.algo == "locon" and not network.conv_dim:
        network = replace(network, conv_dim=network.network_dim or DEFAULT_DIM)
    return network


def arguments(given: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as values of NetworkOptions' fields.

    Raises LoraTrainError that names all that are not understood.
    """
    hints = typing.get_type_hints(NetworkOptions)
    values: dict[str, Any] = {}
    problems = []
    for text in given:
        name, equals, value = text.partition("=")
        name = OTHER_NAMES.get(name.strip(), name.strip())
        try:
            if not equals or name not in hints:
                raise ValueError("there is no such option of the network")
            if name == "kind":
                values |= ALGORITHMS.get(value, {"kind": value}) or {"kind": "lora"}
            else:
                values[name] = _parse(hints[name], value)
        except ValueError as error:
            problems.append(Problem(f"{text!r}: {error}.", "--args", f"Known: {', '.join(sorted(hints))}."))
    if problems:
        raise LoraTrainError.of(problems)
    return values


def _parse(hint: Any, text: str) -> Any:
    """A text as the type `hint`; of lists, numbers are divided by commas and texts by semicolons."""
    if isinstance(hint, types.UnionType):
        if text.lower() in ("", "none"):
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        separator = ";" if kind is str else ","  # rules and paths may have commas
        return tuple(_parse(kind, item.strip()) for item in text.split(separator) if item.strip())
    if hint is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in ("true", "1")
    try:
        return hint(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _with_strength(text: str) -> tuple[str, float]:
    """`FILE` or `FILE:0.5`; a colon that no number follows belongs to the path."""
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
