"""Bases and networks with random values, and LyCORIS' modules as witnesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_train.networks.base import Form, NetworkModule
from lora_train.networks.registry import new_network

BASES = {
    "linear": lambda: nn.Linear(24, 36),
    "conv1x1": lambda: nn.Conv2d(24, 36, 1),
    "conv3x3": lambda: nn.Conv2d(24, 36, 3, padding=1),
    "strided": lambda: nn.Conv2d(24, 36, 3, stride=2, padding=1),
}


@dataclass(frozen=True)
class Case:
    """A kind with its form, and how LyCORIS makes the same."""

    kind: str
    form: Form
    theirs: str
    options: dict[str, Any]


def case(kind: str, theirs: str, rank: int = 4, alpha: float = 2.0, **options: Any) -> Case:
    """LyCORIS calls some options otherwise; `options` are ours."""
    renamed = {"dora_wd": "weight_decompose", "wd_on_output": "wd_on_out"}
    their_options = {renamed.get(name, name): value for name, value in options.items()}
    return Case(kind, Form(rank, alpha, **options), theirs, {"lora_dim": rank, "alpha": alpha, **their_options})


CASES = {
    "lora": case("lora", "LoConModule"),
    "lora-tucker": case("lora", "LoConModule", use_tucker=True),
    "lora-rs": case("lora", "LoConModule", rs_lora=True),
    "loha": case("loha", "LohaModule"),
    "loha-tucker": case("loha", "LohaModule", use_tucker=True),
    "loha-rs": case("loha", "LohaModule", rs_lora=True),
    "lokr": case("lokr", "LokrModule", rank=2),
    "lokr-factor": case("lokr", "LokrModule", rank=1, factor=4),
    "lokr-both": case("lokr", "LokrModule", rank=1, decompose_both=True),
    "lokr-whole": case("lokr", "LokrModule", full_matrix=True),
    "lokr-tucker": case("lokr", "LokrModule", rank=2, use_tucker=True),
    "lokr-unbalanced": case("lokr", "LokrModule", rank=1, factor=4, unbalanced_factorization=True),
    "dora-rows": case("lora", "LoConModule", dora_wd=True, wd_on_output=True),
    "dora-columns": case("lora", "LoConModule", dora_wd=True, wd_on_output=False),
    "dora-loha": case("loha", "LohaModule", dora_wd=True, wd_on_output=True),
    "dora-lokr": case("lokr", "LokrModule", rank=2, dora_wd=True, wd_on_output=False),
    "oft": case("oft", "DiagOFTModule"),
    "coft-rescaled": case("oft", "DiagOFTModule", constraint=1e-2, rescaled=True),
    "boft": case("boft", "ButterflyOFTModule", rank=18),
    "boft-rescaled": case("boft", "ButterflyOFTModule", rank=18, constraint=1e-2, rescaled=True),
    "ia3": case("ia3", "IA3Module"),
    "ia3-input": case("ia3", "IA3Module", train_on_input=True),
    "glora": case("glora", "GLoRAModule"),
    "full": case("full", "FullModule"),
}


def shaken(module: nn.Module, seed: int = 0) -> None:
    """Add noise to every parameter, so that no delta is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def network_for(case: Case, base: nn.Module, seed: int = 0) -> NetworkModule:
    """Ours, with random values."""
    network = new_network(case.kind, base, case.form, torch.Generator().manual_seed(seed))
    shaken(network, seed)
    return network


def their_module(case: Case, base: nn.Module) -> Any:
    """LyCORIS' module beside `base`, as new."""
    import lycoris.modules as modules

    return getattr(modules, case.theirs)("lora_unet_x", base, **case.options)


def into_theirs(module: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Put a file's tensors into LyCORIS' module, by its own names. All must have a place of the same shape."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if hasattr(module, "is_diff"):
        own |= {"diff": module.weight, "diff_b": module.bias}
    with torch.no_grad():
        for name, value in tensors.items():
            assert own[name].shape == value.shape, (name, own[name].shape, value.shape)
            if name != "alpha":
                own[name].copy_(value)


def their_tensors(module: Any) -> dict[str, torch.Tensor]:
    """What LyCORIS would write of its module."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def sample_for(base: nn.Module, seed: int = 1) -> torch.Tensor:
    """A batch of inputs."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 5, 24) if isinstance(base, nn.Linear) else (2, 24, 9, 9)
    return torch.randn(shape, generator=generator)


def base_of(name: str) -> nn.Module:
    """One of `BASES`, the same values each time."""
    torch.manual_seed(0)
    return BASES[name]().requires_grad_(False)
