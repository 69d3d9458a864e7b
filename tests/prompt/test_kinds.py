"""All kinds of networks on a model at once: strengths, order, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lora_train.errors import LoraTrainError
from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.lorafile.hashes import OF_NOTHING
from lora_train.lorafile.writing import serialise, write_lora
from lora_train.models.opening import open_model
from lora_train.networks.base import NORMS, Form
from lora_train.networks.registry import new_network
from lora_train.prompt.syntax import LoraTag
from tests.networks.samples import shaken

FORMS = {
    "lora": Form(4, 2.0),
    "loha": Form(2, 2.0),
    "lokr": Form(2, 2.0, factor=4),
    "dora": Form(4, 2.0, dora_wd=True),
    "dora-rows": Form(4, 2.0, dora_wd=True, wd_on_output=True),
    "oft": Form(8, 1.0, rescaled=True),
    "boft": Form(16, 1.0),
    "ia3": Form(1, 1.0, train_on_input=True),
    "glora": Form(4, 2.0),
    "full": Form(1, 1.0),
    "norm": Form(1, 1.0),
}


@pytest.fixture(scope="module")
def mixed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file with another kind on every module in turn, and a second one like it."""
    folder = tmp_path_factory.mktemp("mixed")
    modules = modules_by_file_name(open_model(base))
    names = [name for name in FORMS if name != "norm"]
    for seed, file in enumerate(("one", "two")):
        tensors: dict[str, torch.Tensor] = {}
        for number, (name, module) in enumerate(sorted(modules.items())):
            kind = "norm" if isinstance(module, NORMS) else names[(number + seed) % len(names)]
            if isinstance(module, nn.Conv2d) and min(module.weight.shape[:2]) < 16:
                continue  # conv_in and conv_out have 4 channels
            torch.manual_seed(seed)
            network = new_network(
                kind.split("-")[0].replace("dora", "lora"), module, FORMS[kind], torch.default_generator
            )
            shaken(network, seed)
            tensors |= {f"{name}.{part}": value for part, value in network.file_tensors().items()}
        write_lora(folder / f"{file}.safetensors", tensors, {}, "fp32", overwrite=False)
    return folder


def _values(model: Any) -> dict[str, torch.Tensor]:
    return {f"{p}.{n}": v.clone() for p, root in model.roots().items() for n, v in root.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strengths_add_up_and_removing_restores_every_bit(base: Path, mixed: Path, dtype: torch.dtype) -> None:
    """The change is strength times the change at 1, relative to the original, whatever else is applied, for kinds
    that add and for those that multiply."""
    model: Any = open_model(base)
    model.to(torch.device("cpu"), dtype)
    before = _values(model)
    applier = Applier(modules_by_file_name(model))

    def change(*tags: tuple[str, float]) -> dict[str, torch.Tensor]:
        networks = [(LoraTag(name, strength, strength), mixed / f"{name}.safetensors") for name, strength in tags]
        assert all(applied.unmatched == () and applied.notes == () for applied in applier.apply(networks))
        after = _values(model)
        return {name: after[name].float() - before[name].float() for name in before if after[name].is_floating_point()}

    one, two = change(("one", 1.0)), change(("two", 1.0))
    assert sum(bool(value.any()) for value in one.values()) > 150
    for found, factors in (
        (change(("one", 0.5)), (0.5, 0.0)),
        (change(("one", 0.75), ("one", 0.25)), (1.0, 0.0)),
        (change(("one", 1.0), ("two", -0.5)), (1.0, -0.5)),
        (change(("two", -0.5), ("one", 1.0)), (1.0, -0.5)),
    ):
        for name, value in found.items():
            expected = factors[0] * one[name] + factors[1] * two[name]
            scale = float(before[name].float().abs().max() + one[name].abs().max() + two[name].abs().max())
            assert (value - expected).abs().max() <= (1e-5 if dtype == torch.float32 else 4e-3) * scale, name
    applier.remove()
    assert all(torch.equal(before[name], value) for name, value in _values(model).items())


def test_a_rank_that_is_cut(base: Path, tmp_path: Path) -> None:
    """The first ranks, the scale as it was: what `dyn` does in the WebUI."""
    model: Any = open_model(base)
    modules = modules_by_file_name(model)
    name = next(name for name in sorted(modules) if name.endswith("attn1_to_q"))
    down, up = torch.randn(4, modules[name].weight.shape[1]), torch.randn(modules[name].weight.shape[0], 4)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
    write_lora(tmp_path / "x.safetensors", tensors, {}, "fp32", overwrite=False)
    original = modules[name].weight.detach().clone()
    for dyn, ranks in ((None, 4), (2, 2), (9, 4)):
        Applier(modules).apply([(LoraTag("x", 1.0, 1.0, dyn), tmp_path / "x.safetensors")])
        expected = original + 0.5 * up[:, :ranks] @ down[:ranks]
        assert torch.allclose(modules[name].weight, expected, atol=1e-5)
        with torch.no_grad():
            modules[name].weight.copy_(original)


def test_unknown_kinds_are_named(base: Path, tmp_path: Path) -> None:
    model: Any = open_model(base)
    modules = modules_by_file_name(model)
    first, second, *_ = (name for name in sorted(modules) if name.endswith("attn1_to_q"))
    good = {f"{first}.diff": torch.zeros_like(modules[first].weight)}
    odd = {f"{second}.mystery": torch.ones(2)}
    tag = LoraTag("x", 1.0, 1.0)
    write_lora(tmp_path / "odd.safetensors", odd, {}, "fp32", overwrite=False)
    write_lora(tmp_path / "half.safetensors", good | odd, {}, "fp32", overwrite=False)
    with pytest.raises(LoraTrainError, match="none of its 1 keys belongs to a LoRA .*mystery"):
        Applier(modules).apply([(tag, tmp_path / "odd.safetensors")])
    half = [(tag, tmp_path / "half.safetensors")]
    applied, notes = Applier(modules).apply_usable(half * 2)
    assert len(applied) == 2 and len(notes) == 1 and "mystery" in notes[0]  # said once, however often it is applied


def test_modules_that_the_model_lacks_are_said(base: Path, tmp_path: Path) -> None:
    modules = modules_by_file_name(open_model(base))
    name = next(name for name in sorted(modules) if name.endswith("attn1_to_q"))
    there = {
        f"{name}.diff": torch.zeros_like(modules[name].weight),
        "lora_unet_out_of_this_world.diff": torch.ones(2, 2),
    }
    write_lora(tmp_path / "x.safetensors", there, {}, "fp32", overwrite=False)
    applied, notes = Applier(modules).apply_usable([(LoraTag("x", 1.0, 1.0), tmp_path / "x.safetensors")])
    assert applied[0].unmatched == ("lora_unet_out_of_this_world",)
    assert notes == ["<lora:x>: 1 of its modules are not in this base model (lora_unet_out_of_this_world)."]


def test_a_module_without_a_bias_gets_one_and_loses_it_again(base: Path, tmp_path: Path) -> None:
    """peft's `lora_bias` on the queries, keys and values, which have none."""
    modules = modules_by_file_name(open_model(base))
    name = next(name for name, module in sorted(modules.items()) if getattr(module, "bias", 0) is None)
    module = modules[name]
    x = torch.randn(2, module.weight.shape[1])
    before = module(x)
    change = torch.arange(float(module.weight.shape[0]))
    write_lora(tmp_path / "x.safetensors", {f"{name}.diff_b": change}, {}, "fp32", overwrite=False)
    applier = Applier(modules)
    applier.apply([(LoraTag("x", 0.5, 0.5), tmp_path / "x.safetensors")] * 2)
    assert torch.allclose(module(x), before + change)
    applier.remove()
    assert module.bias is None and torch.equal(module(x), before)


def test_a_hash_of_nothing_never_shows(base: Path, tmp_path: Path) -> None:
    modules = modules_by_file_name(open_model(base))
    name = next(name for name in sorted(modules) if name.endswith("attn1_to_q"))
    hashes = set()
    for number, told in enumerate((OF_NOTHING, OF_NOTHING, "")):
        tensors = {f"{name}.diff": torch.full_like(modules[name].weight, float(number))}
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(serialise(tensors, {"sshs_model_hash": told}))
        hashes.add(Applier(modules).apply([(LoraTag("x", 1.0, 1.0), path)])[0].short_hash)
    assert len(hashes) == 3 and OF_NOTHING[:12] not in hashes and all(len(one) == 12 for one in hashes)
