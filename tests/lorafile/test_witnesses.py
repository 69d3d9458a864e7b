"""What other tools wrote is read; what is written here, peft and diffusers read to the same output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from lora_train import RunConfig, run_training
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.lorafile.converting import write_diffusers, write_peft
from lora_train.lorafile.inspecting import inspect
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.writing import model_hashes, write_lora
from lora_train.models.opening import open_model
from lora_train.prompt.syntax import LoraTag
from tests.lorafile.witness import deltas

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(("name", "kind"), [("kohya_lora", "lora"), ("lycoris_lokr", "lokr")])
def test_files_of_other_tools_are_read(name: str, kind: str, tmp_path: Path) -> None:
    path = GOLDEN / f"{name}.safetensors"
    file, report = read_lora(path), inspect(path)
    with safe_open(path, "pt") as theirs:
        assert set(theirs.keys()) == file.tensors.keys()
        assert all(torch.equal(theirs.get_tensor(key), value) for key, value in file.tensors.items())
        assert theirs.metadata() == file.metadata
    assert list(report.kinds) == [kind] and report.base == "SD 1.x" and report.problems == ()
    assert report.ranks == {"1": report.modules} and report.dtypes == {"float16": len(file.tensors)}
    write_lora(tmp_path / "a.safetensors", file.tensors, file.metadata, "keep", False)
    write_lora(tmp_path / "b.safetensors", read_lora(tmp_path / "a.safetensors").tensors, file.metadata, "keep", False)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_hashes_are_those_that_kohyas_scripts_wrote() -> None:
    file = read_lora(GOLDEN / "kohya_lora.safetensors")
    told = {key: file.metadata[key] for key in ("sshs_model_hash", "sshs_legacy_hash")}
    assert model_hashes(file.tensors, file.metadata) == told
    data = file.path.read_bytes()
    assert hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest() == told["sshs_model_hash"]


def _lora(model: Any, path: Path) -> LoraFile:
    """Random, with ranks of 2 to 4 and alphas of 1.5 and 2.5, on everything that can be trained."""
    modules, generator, tensors = modules_by_file_name(model), torch.Generator().manual_seed(0), {}
    for number, name in enumerate(sorted(model.module_names(True))):
        weight: Any = modules[name].weight
        rank, ones = 2 + number % 3, [1] * (weight.ndim - 2)
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.2
        tensors[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], rank, *ones, generator=generator) * 0.2
        tensors[f"{name}.alpha"] = torch.tensor(1.5 + number % 2)
    return LoraFile(path, tensors, {})


def _outputs(text: Any, unet: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        states = text(torch.arange(77)[None])[0]
        return states, unet(torch.randn(1, 4, 16, 16, generator=generator), torch.tensor([500]), states).sample


def _merged(base: Path, file: LoraFile) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs of the base with the witness's deltas added."""
    model: Any = open_model(base)
    modules = modules_by_file_name(model)
    with torch.no_grad():
        for name, delta in deltas(file.tensors).items():
            weight: Any = modules[name].weight
            weight += delta.reshape(weight.shape).float()
    return _outputs(model.text_encoder, model.unet)


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def _read_by_diffusers(model: Any, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs of a pipeline that loaded `pytorch_lora_weights.safetensors`; skips where diffusers cannot."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.utils import USE_PEFT_BACKEND

    if not USE_PEFT_BACKEND:
        pytest.skip("diffusers loads LoRAs only with newer transformers than the WebUI's 4.30.2")
    pipeline = StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer, unet=model.unet,
        scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors")
    return _outputs(pipeline.text_encoder, pipeline.unet)


def test_diffusers_reads_its_layout(base: Path, tmp_path: Path) -> None:
    model: Any = open_model(base)
    file = _lora(model, tmp_path / "x")
    write_diffusers(file, tmp_path / "pytorch_lora_weights.safetensors")
    for found, expected in zip(_read_by_diffusers(model, tmp_path), _merged(base, file)):
        _close(found, expected)


def test_diffusers_reads_doras_magnitudes_in_unet_and_text_encoder(base: Path, tmp_path: Path) -> None:
    """Magnitudes of 0.8 to 1.2 times the base's: where they are dropped, the output is far off."""
    model: Any = open_model(base)
    file, modules = _lora(model, tmp_path / "x"), modules_by_file_name(model)
    generator = torch.Generator().manual_seed(3)
    for name in file.by_module():
        weight: Any = modules[name].weight
        rows = weight.detach().flatten(1).norm(dim=1) * (0.8 + 0.4 * torch.rand(len(weight), generator=generator))
        file.tensors[f"{name}.dora_scale"] = rows.reshape(-1, *[1] * (weight.ndim - 1))
    write_diffusers(file, tmp_path / "pytorch_lora_weights.safetensors")
    write_lora(tmp_path / "kohya.safetensors", file.tensors, {}, "fp32", False)
    ours: Any = open_model(base)
    Applier(modules_by_file_name(ours)).apply([(LoraTag("x", 1.0, 1.0), tmp_path / "kohya.safetensors")])
    again: Any = open_model(base)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    Applier(modules_by_file_name(again)).apply([(LoraTag("x", 1.0, 1.0), path)])
    expected = _outputs(ours.text_encoder, ours.unet)
    for found, wanted in zip(_outputs(again.text_encoder, again.unet), expected):
        _close(found, wanted)
    for found, wanted in zip(_read_by_diffusers(model, tmp_path), expected):
        _close(found, wanted)


def test_peft_reads_its_layout(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model: Any = open_model(base)
    file = _lora(model, tmp_path / "x")
    write_peft(file, tmp_path / "adapter")
    only_unet = {key: value for key, value in file.tensors.items() if key.startswith("lora_unet_")}
    loaded = peft.PeftModel.from_pretrained(model.unet, str(tmp_path / "adapter" / "unet"))
    found = _outputs(model.text_encoder, loaded)[1]
    _close(found, _merged(base, LoraFile(tmp_path, only_unet, {}))[1])
    assert not torch.allclose(found, _outputs(open_model(base).text_encoder, open_model(base).unet)[1], rtol=1e-2)  # type: ignore[attr-defined]


def test_a_trained_files_fields_are_kohyas(make_config: Callable[..., RunConfig], host: StandaloneHost) -> None:
    """Every field that sd-scripts writes, but the parameters of losses and noises that were not used."""
    made = run_training(make_config(), host)
    assert made.path is not None
    unused = {
        "ss_huber_c", "ss_huber_scale", "ss_huber_schedule", "ss_multires_noise_discount",
        "ss_max_validation_steps", "ss_resize_interpolation",
    }  # fmt: skip
    theirs = read_lora(GOLDEN / "kohya_lora.safetensors").metadata
    ours = read_lora(made.path).metadata
    assert theirs.keys() - ours.keys() == unused
    assert ours["ss_steps"] == "3" and ours["ss_validation_split"] == "0.0" and ours["ss_lowram"] == "False"
    assert ours["ss_network_module"] == "networks.lora" and "ss_network_args" not in ours


def test_the_network_is_told_as_the_trainers_of_the_field_do(
    make_config: Callable[..., RunConfig], host: StandaloneHost
) -> None:
    made = run_training(make_config(network={"kind": "lokr", "factor": 8, "conv_dim": 2, "conv_alpha": 1.0}), host)
    assert made.path is not None
    theirs, ours = read_lora(GOLDEN / "lycoris_lokr.safetensors").metadata, read_lora(made.path).metadata
    assert ours["ss_network_module"] == theirs["ss_network_module"]
    args = json.loads(ours["ss_network_args"])
    assert args == {"algo": "lokr", "factor": "8", "conv_dim": "2", "conv_alpha": "1"}
    assert all(json.loads(theirs["ss_network_args"])[name] == args[name] for name in ("algo", "factor"))
