"""What the tools of the field wrote: every tensor's name and shape, on an SD 1.x of real sizes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from lora_train.networks.inject import load_networks
from lora_train.networks.registry import kind_of
from tests.models.test_real_sizes import model_of

FILES = {"kohya_locon": "lora", "lycoris_loha": "loha", "lycoris_lokr": "lokr", "lycoris_dora": "lora"}


@pytest.mark.parametrize("name", FILES)
def test_every_module_is_known_fits_and_is_written_with_the_same_keys(name: str) -> None:
    path = Path(__file__).parents[1] / "golden" / f"files_{name}.json.gz"
    golden = json.loads(gzip.decompress(path.read_bytes()))
    generator = torch.Generator().manual_seed(0)
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key, (_, shape) in golden.items():
        module, part = key.split(".", 1)
        modules.setdefault(module, {})[part] = torch.randn(shape, generator=generator).abs()
    for tensors in modules.values():
        kind = kind_of(tensors)
        assert kind is not None and kind.name == FILES[name]
    networks = load_networks(model_of("sd1"), modules, ("lora_unet", "lora_te"), name)
    again = networks.file_tensors()
    assert {key: list(value.shape) for key, value in again.items()} == {k: shape for k, (_, shape) in golden.items()}
    assert all(torch.equal(value, modules[key.split(".", 1)[0]][key.split(".", 1)[1]]) for key, value in again.items())
