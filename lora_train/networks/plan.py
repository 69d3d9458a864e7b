"""Which module gets which network: the options of a run, worked out for every target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn

from lora_train.config import NetworkOptions
from lora_train.config.network import RULE_LR, Rule, block_weights, parse_rule
from lora_train.errors import LoraTrainError
from lora_train.networks.base import NORMS, Form
from lora_train.networks.blocks import block_of, layout_of
from lora_train.networks.registry import network_kind
from lora_train.patterns import PatternError, search
from lora_train.records.family import Blocks
from lora_train.records.kinds import KINDS, NORM

_FORM_FIELDS = {field.name for field in fields(Form)}


@dataclass(frozen=True)
class Rate:
    """The learning rate of one network."""

    lr: float | None = None
    """Its own rate; None: its root's times `factor`."""
    factor: float = 1.0
    label: str = ""
    """Added to the root's name where rates are reported."""


@dataclass(frozen=True)
class Part:
    """The network that one module gets."""

    kind: str
    form: Form
    rate: Rate = Rate()


def plan_of(
    options: NetworkOptions, bases: Mapping[str, nn.Module], usual: frozenset[str], prefixes: tuple[str, ...]
) -> dict[str, Part]:
    """The parts of all modules that get a network.

    `bases` are all modules that could get one (with 3x3 convolutions and norms), `usual` the names of those that get
    one by default. The lists by block are applied first, then the first rule whose pattern matches the name and whose
    kind can change the module. `options` has its automatic choices filled in. Raises LoraTrainError for lists of the
    wrong length and for patterns that match nothing.
    """
    weights = _weights(options, layout_of(bases))
    rules = [parse_rule(rule) for rule in options.network_rules]
    found = {rule.pattern: _found(rule.pattern, list(bases)) for rule in rules}
    idle = [pattern for pattern, names in found.items() if not names]
    if idle:
        raise LoraTrainError(
            f"no module of this base model has {' or '.join(map(repr, idle))} in its name.",
            "network.network_rules",
            f"Names are those in files, for example {min(bases)}.",
        )
    plan = {}
    for name, base in bases.items():
        if not any(name.startswith(prefix + "_") for prefix in prefixes):
            continue
        part = _default(options, name, base, name in usual, weights)
        rule = next((rule for rule in rules if name in found[rule.pattern] and _concerns(rule, base, part)), None)
        if rule is not None:
            part = None if rule.off else _ruled(part or _blank(options, base), rule.values)
        if part is not None and (part.form.rank > 0 or not KINDS[part.kind].ranked) and part.rate.factor != 0:
            plan[name] = part
    return plan


def _found(pattern: str, names: list[str]) -> frozenset[str]:
    """The names that a rule's pattern matches. Raises LoraTrainError when the search takes too long."""
    try:
        return search(pattern, names)
    except PatternError as error:
        raise LoraTrainError(f"the pattern {pattern!r} {error}.", "network.network_rules", error.fix) from error


def _concerns(rule: Rule, base: nn.Module, part: Part | None) -> bool:
    """Whether the rule applies to a module with this part: norms get a network only if one is asked for."""
    if "kind" in rule.values:
        return isinstance(base, network_kind(rule.values["kind"]).bases)
    return rule.off or part is not None or not isinstance(base, NORMS)


def rates_of(options: NetworkOptions, names: Iterable[str]) -> dict[str, Rate]:
    """The rate of each module by its block alone (for networks loaded from a file)."""
    names = list(names)
    weights = _weights(options, layout_of(names))
    return {name: _rate(name, weights) for name in names}


def _weights(options: NetworkOptions, layout: Blocks) -> list[float]:
    """The factor of each block's rate; empty if there are none. Raises LoraTrainError when lists do not fit."""
    for field in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"):
        count = len(getattr(options, field))
        if count not in (0, layout.total):
            raise LoraTrainError(f"has {count} values; this base model has {layout.total} blocks.", f"network.{field}")
    try:
        weights = block_weights(options, layout.side, layout.mid)
    except ValueError as error:
        raise LoraTrainError(f"a list of rates does not fit: {error}.", "network.down_lr_weight") from None
    return [1.0] * layout.ends + weights + [1.0] * layout.ends if weights else []


def _default(options: NetworkOptions, name: str, base: nn.Module, usual: bool, weights: list[float]) -> Part | None:
    """The network of the module without rules."""
    if isinstance(base, NORMS):
        return _blank(options, base) if options.train_norm or options.kind == NORM else None
    if not isinstance(base, network_kind(options.kind).bases):
        return None
    large = isinstance(base, nn.Conv2d) and base.kernel_size != (1, 1)
    block = block_of(name)
    dims, alphas = (
        (options.conv_block_dims, options.conv_block_alphas) if large else (options.block_dims, options.block_alphas)
    )
    rank, alpha = (options.conv_dim, options.conv_alpha) if large else (options.network_dim, options.network_alpha)
    if block is not None and dims:
        rank = dims[block]
        alpha = alphas[block] if alphas else (alpha or rank / 2)
    convolutions = bool(options.conv_dim or options.conv_block_dims)
    if not rank or not (usual or convolutions):
        return None
    return Part(options.kind, _form(options, rank, float(alpha or rank)), _rate(name, weights))


def _rate(name: str, weights: list[float]) -> Rate:
    block = block_of(name)
    return Rate(factor=weights[block], label=f" block {block}") if weights and block is not None else Rate()


def _blank(options: NetworkOptions, base: nn.Module) -> Part:
    """The network that a rule starts from if there would be none."""
    assert options.network_dim
    kind = NORM if isinstance(base, NORMS) else options.kind
    form = _form(options, options.network_dim, options.network_alpha or options.network_dim)
    return Part(kind, replace(form, dora_wd=form.dora_wd and kind != NORM))


def _form(options: NetworkOptions, rank: int, alpha: float) -> Form:
    shared = _FORM_FIELDS & {field.name for field in fields(options)}
    return Form(rank, alpha, **{name: getattr(options, name) for name in shared})


def _ruled(part: Part, values: Mapping[str, Any]) -> Part:
    """The part as a rule wants it; a rule's dim without alpha keeps the scale."""
    form = part.form
    rank = int(values.get("dim", form.rank))
    alpha = float(values.get("alpha", form.alpha * rank / form.rank if form.rank else rank))
    kind = str(values.get("kind", part.kind))
    named = {name: value for name, value in values.items() if name in _FORM_FIELDS and name != "alpha"}
    form = replace(form, rank=rank, alpha=alpha, **named)
    return replace(
        part,
        kind=kind,
        rate=Rate(values[RULE_LR], label=f" {values[RULE_LR]:g}") if RULE_LR in values else part.rate,
        form=replace(form, dora_wd=form.dora_wd and KINDS[kind].decomposable),
    )
