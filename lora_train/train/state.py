"""The state of a training, from which it continues bit for bit as if it had not stopped.

It has the trained weights, the optimizer's tensors and a few numbers. Randomness has no state: it is a function of
seed, name and position. The file is a safetensors file with the numbers as metadata: no pickle, and written atomically.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lora_train.atomic import write_bytes
from lora_train.errors import LoraTrainError
from lora_train.lorafile.writing import serialise
from lora_train.train.flat import Flat

VERSION = 1
_OURS = ("params", "lr", "base_lr", "initial_lr", "name")
"""The entries of a parameter group that follow from the configuration or the step."""


def write_state(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, flat: Flat, numbers: dict[str, Any]
) -> None:
    """Write the state atomically; `numbers` are JSON data. The optimizer's is written by the networks' own parameters.
    Raises LoraTrainError when it cannot be written."""
    tensors = {f"network.{name}": value.detach().cpu() for name, value in network.state_dict().items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in flat.split(optimizer.state_dict()["state"]).items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{name}"] = value.detach().cpu()
            else:
                plain.setdefault(str(index), {})[name] = value
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        own = {name: value for name, value in group.items() if name not in _OURS}
        tensors |= {f"group.{index}.{n}": v.detach().cpu() for n, v in own.items() if isinstance(v, torch.Tensor)}
        groups.append({name: value for name, value in own.items() if _is_plain(value)})
    saved = {"version": VERSION, "optimizer": plain, "groups": groups, **numbers}
    write_bytes(path, serialise(tensors, {"lora_train_state": json.dumps(saved)}))


def read_numbers(path: Path) -> dict[str, Any] | None:
    """The numbers of a state file; None when it is missing or cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            numbers = json.loads((file.metadata() or {})["lora_train_state"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return numbers if isinstance(numbers, dict) and numbers.get("version") == VERSION else None


def read_state(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, flat: Flat) -> dict[str, Any]:
    """Load the state into `network` and `optimizer`; returns the numbers.

    Raises LoraTrainError when the file is damaged or belongs to another configuration.
    """
    numbers = read_numbers(path)
    if numbers is None:
        raise LoraTrainError("the saved state cannot be read.", str(path), "Start the training again.")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    try:
        network.load_state_dict(
            {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
        )
        groups = optimizer.state_dict()["param_groups"]
        for index, group in enumerate(groups):
            group |= _group_state(index, tensors, numbers.get("groups", []), group)
        state = flat.join(_optimizer_state(tensors, numbers["optimizer"]))
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (RuntimeError, ValueError, KeyError) as error:
        raise LoraTrainError(
            "the saved state belongs to another configuration.", str(path), "Start the training again."
        ) from error
    return numbers


def _optimizer_state(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain.items()}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    return state


def _group_state(
    index: int, tensors: dict[str, torch.Tensor], groups: list[dict[str, Any]], group: dict[str, Any]
) -> dict[str, Any]:
    """What the optimizer itself keeps in a parameter group, for example Prodigy's rate; lists become tuples again.

    Older files have none of it.
    """
    plain = groups[index] if index < len(groups) else {}
    found = {n: tuple(v) if isinstance(group.get(n), tuple) else v for n, v in plain.items()}
    start = f"group.{index}."
    return found | {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def _is_plain(value: Any) -> bool:
    """Whether JSON preserves it, except for tuples."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
