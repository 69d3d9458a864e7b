from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lora_train.models.base import Parts
from lora_train.models.opening import open_model
from lora_train.models.sd1 import StableDiffusion1
from lora_train.networks.base import Form
from lora_train.networks.inject import NetworkSet, create_networks, targets
from lora_train.networks.lora import Lora, lora_delta


@pytest.mark.parametrize(
    ("file", "convolutions"), [("sd1_lora", None), ("sd1_locon", Form(4, 1.0))], ids=["lora", "locon"]
)
def test_keys_and_shapes_are_kohyas_for_sd1(file: str, convolutions: Form | None) -> None:
    """An SD 1.x on the meta device gets exactly the tensors that sd-scripts writes."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(sample_size=64, cross_attention_dim=768), AutoencoderKL()
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
    model = StableDiffusion1(Parts(Path("x"), unet, vae, [text], [None]))
    prefixes = ("lora_unet", "lora_te")
    networks = create_networks(model, "lora", Form(8, 4.0), torch.Generator(), prefixes, convolutions)
    found = {k: ["float32", list(v.shape)] for k, v in networks.file_tensors().items()}
    path = Path(__file__).parents[1] / "golden" / f"{file}.json.gz"
    golden: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    assert found == golden


@pytest.mark.parametrize(
    "base", [nn.Linear(12, 7), nn.Conv2d(12, 7, 1), nn.Conv2d(12, 7, 3, padding=1), nn.Conv2d(12, 7, 3, stride=2)]
)
def test_output_and_weight_say_the_same(base: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    network = Lora().create(base, Form(3, 1.5), generator)
    network.up.data.normal_(generator=generator)
    x = torch.randn(2, 12, 9, 9, generator=generator)
    if isinstance(base, nn.Linear):
        x = torch.randn(2, 5, 12, generator=generator)
    expected = base(x) + network.output_delta(base, x)
    weight = base.weight
    with torch.no_grad():
        weight.add_(network.weight_delta(weight))
    assert torch.allclose(base(x), expected, atol=1e-5)


def test_delta_equals_pefts() -> None:
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(16, 8))
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["0"], init_lora_weights=False)
    torch.manual_seed(0)
    layer = peft.get_peft_model(base, config).base_model.model[0]
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.allclose(lora_delta(down, up, 2 / 4), layer.get_delta_weight("default"), atol=1e-6)


def test_initial_values_are_those_of_kaiming_uniform() -> None:
    base = nn.Linear(300, 10)
    network = Lora().create(base, Form(64, 1.0), torch.Generator().manual_seed(0))
    expected = torch.empty(64, 300)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn.init.kaiming_uniform_(expected, a=5**0.5)
    assert torch.allclose(network.down, expected)
    assert network.up.abs().max() == 0


def test_a_file_without_alpha_means_alpha_is_rank() -> None:
    tensors = {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(3, 2)}
    assert Lora().load(nn.Linear(4, 3), tensors).scale == 1.0
    assert Lora().load(nn.Conv2d(4, 3, 1), tensors).weight_delta(torch.empty(3, 4, 1, 1)).shape == (3, 4, 1, 1)


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 1, 1), (3, 4)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Lora().load(nn.Linear(4, 3), {"lora_down.weight": torch.ones(shape), "lora_up.weight": torch.ones(3, 2)})


def _networks(base: Path) -> tuple[Any, NetworkSet]:
    model = open_model(base)
    networks = create_networks(model, "lora", Form(2, 2.0), torch.Generator().manual_seed(0), ("lora_unet", "lora_te"))
    for network in networks.networks.values():
        nn.init.normal_(network.up, std=0.1)
    return model, networks


def test_attached_at_zero_and_detached_the_base_is_bit_equal(base: Path) -> None:
    model, networks = _networks(base)
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([500])

    def run() -> torch.Tensor:
        with torch.no_grad():
            return model.predict(x, t, model.encode_text(["red star on blue"]))

    before = run()
    networks.attach()
    with networks.at(0.0):
        assert torch.equal(run(), before)
    changed = run()
    assert not torch.allclose(changed, before)
    networks.detach()
    assert torch.equal(run(), before)


def test_only_what_was_asked_for_is_trained(base: Path) -> None:
    model = open_model(base)
    networks = create_networks(model, "lora", Form(2, 2.0), torch.Generator(), ("lora_te",))
    assert all(name.startswith("lora_te_") for name in networks.file_tensors())
    assert networks.parameters_of("lora_unet") == []
    assert len(networks.parameters_of("lora_te")) == 2 * len([n for n in targets(model) if n.startswith("lora_te_")])
    assert not any(p.requires_grad for root in model.roots().values() for p in root.parameters())
