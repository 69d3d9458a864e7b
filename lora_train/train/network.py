"""The networks of a run: LoRAs merged into the base, modules that get a network, their rates, and dropout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lora_train.config import NetworkOptions, RunConfig
from lora_train.config.choices import SCALABLE
from lora_train.config.network import continued_arguments
from lora_train.errors import LoraTrainError, Problem
from lora_train.lorafile.adapters import choose_adapters
from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.lorafile.inspecting import kind_name
from lora_train.lorafile.layouts import named
from lora_train.lorafile.readers import reader_notes
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.resizing import dimensions
from lora_train.lorafile.strengths import USUAL, Wanted
from lora_train.models.base import BaseModel
from lora_train.networks.base import Drop, Pictures
from lora_train.networks.inject import Dropping, NetworkSet, create_planned, load_networks, targets
from lora_train.networks.plan import Rate, plan_of, rates_of
from lora_train.records.families import FAMILIES, is_text
from lora_train.records.family import Family
from lora_train.records.kinds import KINDS, kinds_with
from lora_train.train.randomness import Randomness


@dataclass(frozen=True)
class Built:
    """The networks, the rate of each, and metadata of their file that the options do not contain."""

    network: NetworkSet
    rates: Mapping[str, Rate]
    metadata: Mapping[str, str] = field(default_factory=dict)
    carried: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Tensors of `network_weights` that are not trained: they are copied into the result."""
    notes: tuple[str, ...] = ()
    """What the person should know about it."""


def start_files(options: NetworkOptions) -> list[tuple[Path, str]]:
    """The LoRA files that a training starts from, `network_weights` first, and the adapter to read from each.

    Raises LoraTrainError when none has the adapter that is asked for.
    """
    paths = [Path(name).expanduser() for name in (options.network_weights, *options.base_weights) if name]
    return list(zip(paths, choose_adapters(paths, [options.network_adapter], "network.network_adapter")))


def continued_file(options: NetworkOptions) -> LoraFile:
    """The file of `network_weights`. Raises LoraTrainError when it cannot be read, or has nothing to continue from."""
    path, adapter = start_files(options)[0]
    file = read_lora(path, adapter=adapter)
    if file.still and file.by_module().keys() <= {*file.still}:
        raise LoraTrainError(
            "there is nothing to continue from: this is sd-scripts' OFT with alpha 0, which holds every rotation at 0.",
            str(path),
            "Train a new one: network.kind oft in place of network.network_weights (network.constraint 0.001 bounds "
            "it).",
        )
    return file


def merge_base_weights(options: NetworkOptions, model: BaseModel) -> tuple[str, ...]:
    """Merge `base_weights` into the model permanently; returns what a person should know about the files.

    Raises LoraTrainError when a file does not fit.
    """
    paths = [Path(name).expanduser() for name in options.base_weights]
    strengths = list(options.base_weights_multiplier) + [1.0] * len(paths)
    adapters = [adapter for _, adapter in start_files(options)][-len(paths) :]
    tags = [
        (Wanted(path.stem, strength, strength, adapter=adapter), path)
        for path, strength, adapter in zip(paths, strengths, adapters)
    ]
    applied = Applier(modules_by_file_name(model)).apply(tags)
    odd = [
        f"{path.name} is merged into the base with a strength of {tag.unet:g}, which is unusual; 1 is usual."
        for tag, path in tags
        if not 0 < abs(tag.unet) <= USUAL
    ]
    return (*odd, *(f"{one.path.name}: {note}" for one in applied for note in one.notes))


def build_network(config: RunConfig, model: BaseModel, prefixes: tuple[str, ...], generator: torch.Generator) -> Built:
    """New networks, or those of `network_weights`, on the roots that are trained; not yet attached.

    The parts of `network_weights` for other roots, or for modules that are never trained, are copied into the result.
    They are also merged into the model, since they apply wherever the result is used. Raises LoraTrainError when the
    options or the file do not fit the model.
    """
    options = config.network
    if not options.network_weights:
        bases = targets(model, convolutions=True, norms=True)
        plan = plan_of(options, bases, frozenset(model.module_names()), prefixes)
        if not plan:
            raise LoraTrainError(
                f"nothing would be trained: no module of this base model gets a network of the kind {options.kind}.",
                "network.kind",
                "Choose another kind, dimensions above 0, or rules that leave some modules on.",
            )
        network = create_planned(model, plan, generator)
        # kinds that every program reads need no check, and writing their tensors may take an SVD
        plain = {n for n, part in plan.items() if not (KINDS[part.kind].not_read or part.form.dora_wd)}
        parts = {n: {} if n in plain else one.file_tensors() for n, one in network.named().items()}
        notes = reader_notes(parts)
        return Built(network, {name: part.rate for name, part in plan.items()}, notes=notes)
    file = continued_file(options)
    modules, carried = _split(file, model, prefixes)
    _require_kinds(options, modules, file)
    network = load_networks(model, modules, prefixes, str(file.path))
    rates = rates_of(options, network.named())
    for name, loaded in network.named().items():
        loaded.requires_grad_(rates[name].factor != 0)
    metadata = _metadata_of(file) | {"ss_network_args": json.dumps(continued_arguments(options, file.metadata))}
    notes = (
        *_merge_carried(file, carried, model, prefixes),
        *_left_notes(file, FAMILIES[model.family], prefixes),
        *reader_notes(modules),
    )
    return Built(network, rates, metadata, carried, notes)


def trained_parts(
    options: NetworkOptions, model: BaseModel, prefixes: tuple[str, ...]
) -> dict[str, dict[str, torch.Tensor]]:
    """The modules of `network_weights` that are trained, by their names in files. Raises LoraTrainError."""
    return _split(continued_file(options), model, prefixes)[0]


def _below(key: str, prefixes: tuple[str, ...]) -> bool:
    return key.startswith(tuple(f"{prefix}_" for prefix in prefixes))


def _split(
    file: LoraFile, model: BaseModel, prefixes: tuple[str, ...]
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """A file's modules that can be trained, by our names, and the tensors of all others.

    If there are none, the first are the other modules of the trained roots, which are then refused.
    """
    own = {id(module): name for name, module in targets(model, convolutions=True, norms=True).items()}
    known = modules_by_file_name(model)
    wanted = {name: parts for name, parts in file.by_module().items() if _below(name, prefixes)}
    ours = {own[id(known[name])]: parts for name, parts in wanted.items() if name in known and id(known[name]) in own}
    taken = {name for name in wanted if not ours or (name in known and id(known[name]) in own)}
    carried = {key: value for key, value in file.tensors.items() if key.split(".", 1)[0] not in taken}
    return ours or wanted, carried


def _merge_carried(
    file: LoraFile, carried: dict[str, torch.Tensor], model: BaseModel, prefixes: tuple[str, ...]
) -> list[str]:
    """Merge the untrained part of a file into the model, and return notes on it. Raises LoraTrainError."""
    if not carried:
        return []
    known = modules_by_file_name(model)
    absent = sorted({name for name in _names(carried) if name not in known})
    part = replace(file, tensors={k: v for k, v in carried.items() if k.split(".", 1)[0] in known}, notes=())
    if part.tensors:
        Applier(known).add(Wanted(file.path.stem, 1.0, 1.0), part)
    names = [
        side.title
        for side in FAMILIES[model.family].sides
        if any(_below(key, (side.prefix,)) and not _below(key, prefixes) for key in carried)
    ]
    notes = []
    if names:
        whole = len([name for name in _names(carried) if not _below(name, prefixes)])
        notes.append(
            f"{file.path.name}'s part for the {' and the '.join(names)} ({whole} modules) is not trained: "
            "it is applied while training, and copied into the result unchanged."
        )
    single = [name for name in _names(part.tensors) if _below(name, prefixes)]
    for modules, why in (
        (single, "is applied while training, but never trained"),
        (absent, "is not in this base model"),
    ):
        if modules:
            notes.append(f"Kept unchanged from {file.path.name} ({len(modules)}): {named(modules)}. This {why}.")
    return notes


def _names(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return list(dict.fromkeys(key.split(".", 1)[0] for key in tensors))


def _left_notes(file: LoraFile, family: Family, prefixes: tuple[str, ...]) -> list[str]:
    """Notes on what of the file is not used, and on roots that it has no networks for."""
    absent = [side.title for side in family.sides if side.prefix in prefixes and not _has(file, side.prefix)]
    notes = [f"{file.path.name}: {note}" for note in file.notes]
    if absent:
        notes.append(f"{file.path.name} has nothing for the {' and the '.join(absent)}, which is not trained.")
    return notes


def _has(file: LoraFile, prefix: str) -> bool:
    return any(_below(key, (prefix,)) for key in file.tensors)


def _metadata_of(file: LoraFile) -> dict[str, str]:
    """The metadata about a network loaded from a file: the file's own, otherwise from its tensors."""
    of_file = ("ss_network_module", "ss_network_dim", "ss_network_alpha")
    known = {key: file.metadata[key] for key in of_file if key in file.metadata}
    return dimensions(file.tensors) | known | {"ss_network_weights": file.path.name}


def _require_kinds(options: NetworkOptions, modules: Mapping[str, Mapping[str, torch.Tensor]], file: LoraFile) -> None:
    """Raise LoraTrainError when an option does not work on a kind of network that is trained."""
    kinds = {kind_name(parts) for parts in modules.values()}
    problems = [
        Problem(f"does not work on {', '.join(odd)}, which {file.path} has.", field, "Leave it out.")
        for field, value, able in (
            ("network.scale_weight_norms", options.scale_weight_norms, SCALABLE),
            ("network.network_dropout", options.network_dropout, kinds_with("network_dropout")),
        )
        if value and (odd := sorted(kinds - {*able}))
    ]
    if problems:
        raise LoraTrainError.of(problems)


def parameter_groups(
    built: Built, options: NetworkOptions, root_rates: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """Parameter groups by learning rate, for the optimizer; `root_rates` are the rates of the roots by prefix.

    LoRA+ (Hayou et al. 2024, arXiv 2402.12354): the matrices that start at 0 get `ratio` times the rate.
    """
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for prefix, root_rate in root_rates.items():
        ratio = _loraplus_ratio(options, prefix)
        for name, network in built.network.named(prefix).items():
            rate = built.rates[name]
            lr = rate.lr if rate.lr is not None else (root_rate or 0.0) * rate.factor
            for path, parameter in network.named_parameters():
                up = ratio is not None and path in network.up_parameters
                own = lr * ratio if up and ratio is not None else lr
                if not own:
                    parameter.requires_grad_(False)
                    continue
                label = prefix + rate.label + (" up" if up else "")
                fresh = {"params": [], "base_lr": own, "lr": 0.0, "name": label}
                groups.setdefault((label, own), fresh)["params"].append(parameter)
    return list(groups.values())


def dropping(
    options: NetworkOptions, random: Randomness, position: int, pictures: Pictures | None = None
) -> Dropping | None:
    """What each network drops for some `pictures` of the batch at `position`; None without dropout.

    A function of seed, name and position: a forward pass that checkpointing repeats drops the same.
    """
    if not (options.network_dropout or options.rank_dropout or options.module_dropout):
        return None

    def what(name: str) -> Drop | None:
        generator = random.torch(f"dropout/{name}", position)
        if float(torch.rand((), generator=generator)) < options.module_dropout:
            return None
        return Drop(generator, options.network_dropout, options.rank_dropout, pictures)

    return what


def _loraplus_ratio(options: NetworkOptions, prefix: str) -> float | None:
    own = options.loraplus_text_encoder_lr_ratio if is_text(f"{prefix}_") else options.loraplus_unet_lr_ratio
    return own or options.loraplus_lr_ratio
