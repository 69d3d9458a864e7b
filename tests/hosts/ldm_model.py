"""A model whose modules are named and nested as LDM's code has them: what ours must find its way in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lora_train.demo.checkpoint import ldm_tensors
from lora_train.demo.files import base_folder
from lora_train.lorafile.writing import write_lora
from lora_train.models.ldm_keys import UNET_PREFIX


class _Tree(nn.Module):
    """Modules by dotted paths; numbered children can be indexed as in a Sequential."""

    def __getitem__(self, index: int) -> nn.Module:
        return list(self.children())[index]

    def __len__(self) -> int:
        return len(list(self.children()))

    def __iter__(self) -> Any:
        return iter(self.children())


def _grow(root: nn.Module, path: str, leaf: nn.Module) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, _Tree())
        root = getattr(root, name)
    root.add_module(last, leaf)


def ldm_model() -> Any:
    """`shared.sd_model` of the tiny base: Linear and Conv2d leaves with its shapes, under LDM's names."""
    unet = _Tree()
    tensors = ldm_tensors(base_folder())
    for name, value in sorted(
        tensors.items(), key=lambda item: [int(p) if p.isdigit() else -1 for p in item[0].split(".")]
    ):
        if not (name.startswith(UNET_PREFIX) and name.endswith(".weight") and value.ndim in (2, 4)):
            continue
        shape = value.shape
        leaf: nn.Module = nn.Linear(shape[1], shape[0]) if value.ndim == 2 else nn.Conv2d(shape[1], shape[0], shape[2])
        _grow(unet, name.removeprefix(UNET_PREFIX).removesuffix(".weight"), leaf)
    text = CLIPTextModel(
        CLIPTextConfig(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    )
    model = nn.Module()
    model.model = nn.Module()  # type: ignore[assignment]
    model.model.diffusion_model = unet  # type: ignore[union-attr]
    stage = nn.Module()
    stage.wrapped = nn.Module()  # type: ignore[assignment]
    stage.wrapped.transformer = text  # type: ignore[union-attr]
    model.cond_stage_model = stage  # type: ignore[assignment]
    model.sd_checkpoint_info = SimpleNamespace(filename="x")  # type: ignore[assignment]
    return model


def write_lora_for(model: Any, path: Path) -> list[str]:
    """A LoRA on attention modules of UNet and text encoder; returns their names in files."""
    from lora_train.hosts.ldm_modules import modules_by_file_name

    chosen = {
        name: module
        for name, module in modules_by_file_name(model).items()
        if name.endswith(("_to_q", "_to_k", "_ff_net_2", "_q_proj"))
    }
    tensors: dict[str, torch.Tensor] = {}
    for name, module in chosen.items():
        out, inner = module.weight.shape[:2]  # type: ignore[union-attr, misc]
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, inner)
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, 2)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    write_lora(path, tensors, {"ss_output_name": "sara"}, "fp32", overwrite=True)
    return list(chosen)
