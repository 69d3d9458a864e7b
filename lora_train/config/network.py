"""The network's options that are texts: rules by module name and weights by block; checks; and kohya's arguments."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lora_train.config.choices import DECOMPOSED, SCALABLE
from lora_train.config.run import NetworkOptions
from lora_train.config.table import Live, Option, find, in_section
from lora_train.config.values import parse, plain_type
from lora_train.errors import Problem
from lora_train.patterns import Faulty, PatternError, check_pattern
from lora_train.records.families import all_blocks, block_totals, titles
from lora_train.records.kinds import KINDS as RECORDS
from lora_train.records.kinds import LORA, LYCORIS, kinds_with

RULE_LR = "lr"

_RULE_NAMES = {"network_dim": "dim", "network_alpha": "alpha"}
"""The options that rules call otherwise."""


def _of_rules() -> dict[str, Option]:
    found = {_RULE_NAMES.get(one.name, one.name): one for one in in_section("network") if one.about.by_rule}
    return {RULE_LR: find("train.learning_rate"), **found}


RULE_VALUES = Live(_of_rules)
"""The values that a rule may set, by the names that rules have for them: the options that say so, and a rate."""


@dataclass(frozen=True)
class Rule:
    """The settings of the modules whose name in files matches `pattern`."""

    pattern: str
    """A regular expression; see `lora_train.patterns` for how it is searched."""
    off: bool
    values: dict[str, Any]


def parse_rule(text: str) -> Rule:
    """`PATTERN: off` or `PATTERN: dim=8 alpha=4 lr=1e-5 kind=lokr ...`. Raises ValueError that says what is wrong."""
    pattern, colon, settings = text.rpartition(":")
    if not colon or not settings.strip():
        raise ValueError("it must be PATTERN: dim=8 alpha=4 lr=1e-5 kind=lokr, or PATTERN: off")
    pattern = pattern.strip()
    try:
        check_pattern(pattern)
    except Faulty as error:
        raise ValueError(f"{pattern!r} is not a valid regular expression ({error.why})") from None
    except PatternError as error:
        raise ValueError(f"the pattern {pattern[:100]!r} {error}") from None
    if settings.strip() == "off":
        return Rule(pattern, True, {})
    values = {}
    for item in settings.split():
        name, _, value = item.partition("=")
        if name not in RULE_VALUES:
            raise ValueError(f"{name!r} is not known (known: off, {', '.join(RULE_VALUES)})")
        values[name] = _rule_value(name, value)
    if not _is_factor(values.get("factor", -1)):
        raise ValueError("factor must be -1 or more than 0")
    return Rule(pattern, False, values)


def _rule_value(name: str, text: str) -> Any:
    """One value of a rule, in the range and of the choices of its option. Raises ValueError that says what is wrong."""
    option = RULE_VALUES[name]
    hint, about = plain_type(option.hint), option.about
    try:
        value = parse(hint, "true" if hint is bool and not text else text)  # a switch may stand alone
    except ValueError:
        raise ValueError(f"{text!r} is not a value for {name}") from None
    if about.choices and value not in about.choices:
        raise ValueError(f"the {name} {value!r} is not known (known: {', '.join(about.choices)})")
    low, high = about.range or (-math.inf, math.inf)
    low = 0 if name == "dim" else low  # leaves the module out
    if hint is not bool and hint is not str and not low <= value <= high:
        raise ValueError(f"{name}={value} is out of range ({low:.10g} to {high:.10g})")
    return value


def _is_factor(value: int) -> bool:
    return value == -1 or value > 0


# kohya's names for rates over the blocks of one side: a function of the position, 0 to 1
CURVES: dict[str, Callable[[float], float]] = {
    "sine": lambda place: math.sin(math.pi / 2 * place),
    "cosine": lambda place: math.sin(math.pi / 2 * (1 - place)),
    "linear": lambda place: place,
    "reverse_linear": lambda place: 1 - place,
    "zeros": lambda place: 0.0,
}


def block_weights(options: NetworkOptions, side: int, mid: int) -> list[float]:
    """kohya's `down_lr_weight`, `mid_lr_weight` and `up_lr_weight` as one list; empty if none is set.

    `side` and `mid` are the numbers of blocks. A part that is not set is 1 everywhere, and so are missing values at its
    end. Raises ValueError that says what is wrong.
    """
    given = (options.down_lr_weight, options.mid_lr_weight, options.up_lr_weight)
    if not any(given):
        return []
    parts = [_side_weights(text, count) for text, count in zip(given, (side, mid, side))]
    return [w if w > options.block_lr_zero_threshold else 0.0 for part in parts for w in part]


def _side_weights(text: str, count: int) -> list[float]:
    """A list of numbers, or a curve's name with an optional offset ("sine+.5")."""
    name, _, offset = text.partition("+")
    if name.strip() in CURVES:
        above = _number(offset) if offset else 0.0
        return [CURVES[name.strip()](i / max(1, count - 1)) + above for i in range(count)]
    values = [_number(item) if item.strip() else 0.0 for item in text.split(",")] if text else []
    if len(values) > count:
        raise ValueError(f"it has {len(values)} values; this base model has {count} such blocks")
    return values + [1.0] * (count - len(values))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text.strip()!r} is neither a number nor one of {', '.join(CURVES)}") from None
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{text.strip()!r} is not a finite number of 0 or more")
    return value


# options with more to report than that they have no effect for a kind, and DoRA's, which apply only with it
_OWN_WORDS = frozenset(("dora_wd", "wd_on_output", "network_dropout", "scale_weight_norms", "init_lora_weights"))


def network_problems(options: NetworkOptions) -> list[Problem]:
    """Options of the network that cannot be combined, or cannot be parsed."""
    found = _rule_problems(options) + _block_problems(options)
    rules = _read_rules(options)
    kinds = {options.kind} | {rule.values["kind"] for rule in rules if "kind" in rule.values}
    decomposed = options.dora_wd or any(rule.values.get("dora_wd") for rule in rules)

    def refuse(when: bool, what: str, field: str, fix: str) -> None:
        if when:
            found.append(Problem(what, f"network.{field}", fix))

    refuse(
        options.dora_wd and options.kind not in DECOMPOSED,
        f"DoRA does not work on networks of the kind {options.kind}.",
        "dora_wd",
        f"Choose from: {', '.join(DECOMPOSED)}.",
    )
    refuse(
        bool(options.network_dropout) and (bool(kinds - {*kinds_with("network_dropout")}) or decomposed),
        "works only between the two matrices of LoRA.",
        "network_dropout",
        "Use network.rank_dropout or network.module_dropout.",
    )
    unscalable = sorted(kinds - {*SCALABLE}) or (["dora"] if decomposed else [])
    refuse(
        options.scale_weight_norms is not None and bool(unscalable),
        f"does not work on {', '.join(unscalable)}, whose change cannot be scaled.",
        "scale_weight_norms",
        f"Choose from: {', '.join(SCALABLE)}.",
    )
    default = NetworkOptions()
    for option in in_section("network"):
        name, concerned = option.name, option.about.kinds
        refuse(
            bool(concerned)
            and name not in _OWN_WORDS
            and getattr(options, name) != getattr(default, name)
            and not kinds & {*concerned},
            f"means nothing for {', '.join(sorted(kinds))}.",
            name,
            f"Leave it out, or choose the kind {' or '.join(concerned)}.",
        )
    started = options.init_lora_weights != "default"
    refuse(
        started and (options.kind not in kinds_with("init_lora_weights") or options.dora_wd or options.use_tucker),
        "is for plain LoRA.",
        "init_lora_weights",
        "Choose the kind lora, without DoRA and Tucker form.",
    )
    refuse(
        started and options.scale_weight_norms is not None,
        f"cannot be combined with network.scale_weight_norms: {options.init_lora_weights} starts from large weights.",
        "init_lora_weights",
        "Leave one of them out.",
    )
    refuse(
        bool(options.network_weights) and (started or bool(options.network_rules)),
        "takes kinds and ranks from the file: rules and other initial weights have no effect.",
        "network_weights",
        "Leave network.network_rules and network.init_lora_weights out.",
    )
    refuse(
        len(options.base_weights_multiplier) > len(options.base_weights),
        "has more values than network.base_weights has files.",
        "base_weights_multiplier",
        "Give one value for each file; missing ones are 1.",
    )
    refuse(
        not all(map(math.isfinite, options.base_weights_multiplier)),
        "has values that are not finite numbers.",
        "base_weights_multiplier",
        "1 is usual.",
    )
    refuse(
        bool(options.network_adapter) and not (options.network_weights or options.base_weights),
        "names an adapter, but no LoRA file is given that could contain it.",
        "network_adapter",
        "Leave it out, or give the file (network.network_weights, network.base_weights).",
    )
    refuse(not _is_factor(options.factor), "must be -1 or more than 0.", "factor", "8 is usual.")
    return found


def _rule_problems(options: NetworkOptions) -> list[Problem]:
    found = []
    for rule in options.network_rules:
        try:
            parse_rule(rule)
        except ValueError as error:
            found.append(Problem(f"{rule!r}: {error}.", "network.network_rules"))
    return found


def _read_rules(options: NetworkOptions) -> list[Rule]:
    """The rules that can be parsed; `_rule_problems` reports the others."""
    rules = []
    for text in options.network_rules:
        with suppress(ValueError):
            rules.append(parse_rule(text))
    return rules


def _block_problems(options: NetworkOptions) -> list[Problem]:
    """The right length is known only with the base model; here the length must fit one family."""
    found = []
    totals = block_totals()
    lengths = "; ".join(f"{titles(families)}: {total}" for total, families in totals.items())
    most = max((max(one.side, one.mid) for one in all_blocks()), default=0)
    for name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"):
        values = getattr(options, name)
        if values and len(values) not in totals:
            found.append(Problem(f"has {len(values)} values.", f"network.{name}", f"{lengths}."))
        if any(not (math.isfinite(value) and value >= 0) for value in values):
            found.append(Problem("has negative values.", f"network.{name}", "0 leaves a block out."))
    for name in ("down_lr_weight", "mid_lr_weight", "up_lr_weight"):
        try:
            _side_weights(getattr(options, name), most)
        except ValueError as error:
            found.append(Problem(f"{error}.", f"network.{name}"))
    for name in ("block_alphas", "conv_block_alphas"):
        if getattr(options, name) and not getattr(options, name.replace("alphas", "dims")):
            found.append(Problem("needs the dimensions too.", f"network.{name}", "Give the list of dimensions."))
    return found


# written to other fields of the metadata, or not about the network
_NOT_ARGUMENTS = (
    "kind",
    "network_dim",
    "network_alpha",
    "network_dropout",
    "network_train_unet_only",
    "network_train_text_encoder_only",
    "scale_weight_norms",
    "network_weights",
    "network_adapter",
    "base_weights",
    "base_weights_multiplier",
)


def network_module(options: NetworkOptions) -> str:
    """kohya's `ss_network_module`: its own LoRA, LyCORIS, or the module of a kind from elsewhere."""
    rules = _read_rules(options)
    kinds = [options.kind, *(rule.values["kind"] for rule in rules if "kind" in rule.values)]
    modules = [RECORDS[kind].module for kind in kinds if kind in RECORDS]
    others = [module for module in modules if module not in (RECORDS[LORA].module, LYCORIS)]
    if others:
        return others[0]
    plain = options.kind == LORA and not (options.dora_wd or options.use_tucker or options.train_norm)
    plain = plain and not any(rule.values.keys() & {"kind", "dora_wd", "use_tucker"} for rule in rules)
    return RECORDS[LORA].module if plain and not options.rs_lora else LYCORIS


def network_arguments(options: NetworkOptions) -> dict[str, str]:
    """kohya's `ss_network_args`: what its `--network_args` would have been, with our names if it has none."""
    default, arguments = NetworkOptions(), {}
    if network_module(options) != RECORDS[LORA].module:
        kind = RECORDS[options.kind]
        arguments["algo"] = kind.lycoris or kind.name
    for option in in_section("network"):
        name, value = option.name, getattr(options, option.name)
        if name not in _NOT_ARGUMENTS and value != getattr(default, name):
            arguments[name] = _text(value)
    if options.dora_wd:
        arguments["wd_on_output"] = str(options.wd_on_output)  # LyCORIS' default is the opposite
    if not options.conv_dim:
        for name in ("conv_dim", "conv_alpha"):
            arguments.pop(name, None)
    return arguments


# arguments of one training, not of the network itself
_OF_THE_RUN = frozenset(
    (
        "rank_dropout",
        "module_dropout",
        "loraplus_lr_ratio",
        "loraplus_unet_lr_ratio",
        "loraplus_text_encoder_lr_ratio",
        "down_lr_weight",
        "mid_lr_weight",
        "up_lr_weight",
        "block_lr_zero_threshold",
    )
)


def continued_arguments(options: NetworkOptions, metadata: Mapping[str, str]) -> dict[str, str]:
    """`ss_network_args` of a network that continues from a file with this metadata: the form is the file's; dropouts
    and rates are this run's."""
    try:
        before = json.loads(metadata.get("ss_network_args", "{}"))
    except (ValueError, RecursionError):
        before = {}
    form = {k: v for k, v in before.items() if k not in _OF_THE_RUN} if isinstance(before, dict) else {}
    return form | {k: v for k, v in network_arguments(options).items() if k in _OF_THE_RUN}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
