"""A family from outside (`flow.py`) goes everywhere that Stable Diffusion's go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_train.cli import main
from lora_train.config import RunConfig, problems
from lora_train.config.document import document
from lora_train.config.extending import registered_for, unregister
from lora_train.config.training_methods import SAMPLINGS
from lora_train.data.cache import LatentCache
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.converting import write_diffusers
from lora_train.lorafile.inspecting import inspect
from lora_train.lorafile.reading import read_lora
from lora_train.models import sampling
from lora_train.models.opening import look, open_model, refusals
from lora_train.prompt.generate import Generator
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from tests.extending import flow

Make = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The family is there within the test, and gone after it."""
    with registered_for(*flow.ADDED):
        yield


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A base of it."""
    return flow.write_checkpoint(tmp_path / "models" / "flow.safetensors")


@pytest.fixture
def make(make_config: Make, checkpoint: Path) -> Make:
    """A short run on it."""

    def config(**groups: dict[str, Any]) -> RunConfig:
        rates = {"learning_rate": 0.01, "unet_lr": 0.01, "text_encoder_lr": 0.005, "lr_scheduler": "constant"}
        return make_config(
            model={"path": str(checkpoint)} | groups.get("model", {}),
            network={"network_dim": 8, "network_alpha": 8.0} | groups.get("network", {}),
            train=rates | groups.get("train", {}),
            save={"save_precision": "fp32"} | groups.get("save", {}),
            data=groups.get("data", {}),
        )

    return config


def test_it_is_recognised_by_its_own_function(checkpoint: Path, base: Path, tmp_path: Path) -> None:
    assert look(checkpoint).family == "tiny-flow" and look(base).family == "sd1"
    assert type(open_model(checkpoint)) is flow.TinyFlow
    damaged = tmp_path / "damaged.safetensors"
    flow.save_file({"x": torch.ones(1)}, damaged, flow.MARK)
    with pytest.raises(LoraTrainError, match="this Tiny Flow has no core"):
        look(damaged)
    unregister(*flow.ADDED)
    with pytest.raises(LoraTrainError, match="not a Stable Diffusion checkpoint"):
        look(checkpoint)
    flow.add()
    assert look(checkpoint).family == "tiny-flow"


def test_training_lowers_the_loss(make: Make, host: StandaloneHost) -> None:
    events: list[dict[str, Any]] = []
    path = run_training(make(train={"max_train_steps": 60}), host, events.append).path
    assert path is not None
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    chosen = {one["field"]: one["value"] for event in events if event["kind"] == "choices" for one in event["choices"]}
    assert chosen["data.resolution"] == 128
    file, model = read_lora(path), flow.TinyFlow(path)
    assert set(file.by_module()) == set(model.module_names()) and file.skipped == () and file.notes == ()
    ups = {key: value for key, value in file.tensors.items() if key.endswith("lora_up.weight")}
    assert all(bool(value.any()) for key, value in ups.items() if "words" not in key)
    told = file.metadata
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == ("tiny_flow_v1", "tiny-flow-v1/lora")
    assert told["modelspec.implementation"] == "https://example.com/tiny-flow"
    assert "modelspec.prediction_type" not in told and told["ss_v2"] == "False"
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sd version"] == "Other"


def test_one_step_is_the_one_written_out_by_hand(make: Make, host: StandaloneHost, monkeypatch: Any) -> None:
    """Latents are shifted and scaled, the time is the share of noise, and the target is noise less latents."""
    seen: dict[str, list[torch.Tensor]] = {"x": [], "t": [], "noise": [], "noisy": [], "predicted": []}
    noised, predict = flow.TinyFlow.noised, flow.TinyFlow.predict

    def watch_noised(self: Any, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        for name, value in (("x", x), ("noise", noise), ("t", t)):
            seen[name].append(value.detach().clone())
        return noised(self, x, noise, t)

    def watch_predict(self: Any, noisy: torch.Tensor, t: torch.Tensor, conditioning: Any) -> torch.Tensor:
        out = predict(self, noisy, t, conditioning)
        seen["noisy"].append(noisy.detach().clone())
        seen["predicted"].append(out.detach().clone())
        return out

    monkeypatch.setattr(flow.TinyFlow, "noised", watch_noised)
    monkeypatch.setattr(flow.TinyFlow, "predict", watch_predict)
    events: list[dict[str, Any]] = []
    run_training(make(train={"max_train_steps": 1}), host, events.append)
    x, t, noise, noisy, predicted = (values[0] for values in seen.values())
    cache = LatentCache(host.data_dir() / "cache" / "latents")
    stored = [cache.get(key)[0] for key in cache._shard_of]
    assert all(one.shape == (16, 8, 8) for one in stored)
    assert all(any(torch.allclose(row, (one - 0.25) * 0.6) for one in stored) for row in x)
    s = t.reshape(-1, 1, 1, 1)
    assert bool(((t > 0) & (t < 1)).all()) and torch.allclose(noisy, (1 - s) * x + s * noise)
    loss = next(event["loss"] for event in events if event["kind"] == "step")
    assert loss == pytest.approx(float((predicted - (noise - x)).square().mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("section", "option", "value", "reason"),
    [
        ("train", "min_snr_gamma", 5.0, "no signal-to-noise ratio"),
        ("train", "zero_terminal_snr", True, "no signal-to-noise ratio"),
        ("train", "noise_offset", 0.1, "no signal-to-noise ratio"),
        ("train", "debiased_estimation_loss", True, "no signal-to-noise ratio"),
        ("model", "v_parameterization", True, "no signal-to-noise ratio"),
        ("model", "clip_skip", 2, "the same layer"),
        ("network", "train_norm", True, "no norms"),
        ("data", "read_npz", True, "no .npz files"),
        ("data", "resolution", 136, "no multiple of 16"),
    ],
)
def test_options_of_others_are_refused_with_the_reason(
    make: Make, base: Path, checkpoint: Path, section: str, option: str, value: Any, reason: str
) -> None:
    config = make(**{section: {option: value}})
    assert not problems(config)
    (found,) = refusals(checkpoint, config)
    assert found.where == f"{section}.{option}" and reason in found.what
    assert not any(reason in one.what for one in refusals(base, config))
    assert "(for sdxl, tiny-flow)" in document() and "(for sd1, sd2, sdxl)" in document()


def test_methods_of_others_are_refused_too(make: Make, checkpoint: Path) -> None:
    (found,) = refusals(checkpoint, make(train={"loss_type": "huber"}))
    assert found.where == "train.huber_schedule" and "no signal-to-noise ratio" in found.what
    assert refusals(checkpoint, make(train={"loss_type": "huber", "huber_schedule": "exponential"})) == []


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
def test_times_are_shares_of_noise(make: Make, checkpoint: Path, sampling: str) -> None:
    config = make(train={"timestep_sampling": sampling, "min_timestep": 500, "max_timestep": 750})
    t = SAMPLINGS.of(config)(2000, torch.Generator().manual_seed(0), open_model(checkpoint), config)
    assert 0.5 <= float(t.min()) < 0.55 and 0.7 < float(t.max()) <= 0.75 and len(t.unique()) > 1900


def test_lists_of_blocks_have_its_number(make: Make, host: StandaloneHost) -> None:
    assert "Tiny Flow: 3" in str(problems(make(network={"block_dims": (1, 2)}))[0])
    result = run_training(make(network={"block_dims": (2, 0, 4)}, train={"max_train_steps": 1}), host)
    assert result.path is not None
    ranks = {
        key.split("_attention")[0]: value.shape[0]
        for key, value in read_lora(result.path).tensors.items()
        if "query.lora_down" in key
    }
    assert ranks == {"flow_core_blocks_0": 2, "flow_core_blocks_2": 4}
    with pytest.raises(LoraTrainError, match="has 25 values; this base model has 3 blocks"):
        run_training(make(network={"block_dims": (1,) * 25}, save={"output_name": "b"}), host)


def test_at_the_command_line_and_its_previews(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    steps: list[float] = []
    step = flow.Euler.step

    def watched(self: Any, velocity: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> Any:
        steps.append(float(t))
        return step(self, velocity, t, x)

    monkeypatch.setattr(flow.Euler, "step", watched)
    place = ["--model", str(checkpoint), "--input", str(pictures), "--dir", str(tmp_path / "loras"), "--offline"]
    usual = ["--tag", "sks", "--output", "flow", "--steps", "2", "--device", "cpu", "--preview", "sks"]
    assert main(["train", *place, *usual, "--min-snr", "5"]) == 2
    assert "--min-snr" in (said := capsys.readouterr().err) and "flow matching" in said
    assert main(["train", *place, *usual, "--textlr1", "0.001", "--lr", "0.01"]) == 0
    capsys.readouterr()
    assert steps[0] == 1.0 and 0 < min(steps) < 0.2
    (run,) = (tmp_path / "data" / "runs").iterdir()
    assert len(list((run / "samples").glob("*.png"))) == 2
    written = tmp_path / "loras" / "flow.safetensors"
    assert main(["file", "inspect", "--json", str(written)]) == 0
    told = json.loads(capsys.readouterr().out)
    told = told[0] if isinstance(told, list) else told
    assert told["base"] == "Tiny Flow" and told["kinds"] == {"lora": len(flow.TinyFlow(written).module_names())}
    assert set(told["blocks"]) == {"B00", "B01", "B02", "BASE", "FLOW_SHORT", "FLOW_LONG"}
    drawn = ["generate", "sks <lora:flow:1>", "--steps", "2", "--dir", str(tmp_path / "loras")]
    assert main(drawn) == 0 and "flow was trained on it" in capsys.readouterr().err
    assert main([*drawn, "--v-parameterization"]) == 2 and "flow matching" in capsys.readouterr().err
    assert main(["train", *place, *usual, "--continue", str(written), "--overwrite"]) == 0


def test_in_prompts(make: Make, host: StandaloneHost, checkpoint: Path, base: Path) -> None:
    path = run_training(make(train={"max_train_steps": 4}), host).path
    assert path is not None
    found = Generator(open_model(checkpoint), path.parent)

    def drawn(prompt: str) -> bytes:
        made = found.generate(prompt, steps=3)
        assert made.notes == [] and made.pictures[0].size == (128, 128)
        return made.pictures[0].tobytes()

    without, whole, words = drawn("sks"), drawn("sks <lora:sara:2>"), drawn("sks <lora:sara:2:0>")
    assert len({without, whole, words}) == 3 and drawn("sks") == without
    other = Generator(open_model(base), path.parent).generate("sks <lora:sara:1>", steps=1)
    assert "another base model, Tiny Flow" in " ".join(other.notes)


def test_what_is_drawn_goes_back_through_scale_and_shift(checkpoint: Path) -> None:
    model = open_model(checkpoint)
    pixels = model.decode_latents(model.scale_latents(torch.full((1, 16, 8, 8), 0.5)))
    assert torch.allclose(pixels, model.picture.decode(torch.full((1, 16, 8, 8), 0.5)), atol=1e-5)  # type: ignore[attr-defined]
    picture = sampling.sample(model, sampling.Request("a", [1], 128, 128, steps=2, guidance=2.0))[0]
    assert isinstance(picture, Image.Image)


def test_resumed_it_has_the_same_bits(make: Make, tmp_path: Path) -> None:
    config = make(train={"max_train_steps": 4, "gradient_checkpointing": True}, data={"flip_aug": True})
    whole = run_training(config, StandaloneHost(tmp_path / "a")).path
    assert whole is not None
    one = read_lora(whole).tensors
    whole.unlink()
    seen: list[dict[str, Any]] = []
    host = StandaloneHost(tmp_path / "b")
    first = run_training(config, host, seen.append, lambda: sum(event["kind"] == "step" for event in seen) >= 2)
    assert first.stopped and first.steps == 2
    second = resume_training(RunFolder(first.folder), host).path
    assert second is not None
    other = read_lora(second).tensors
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_in_diffusers_layout_and_back(make: Make, host: StandaloneHost, tmp_path: Path) -> None:
    path = run_training(make(train={"max_train_steps": 1}), host).path
    assert path is not None
    file = read_lora(path)
    write_diffusers(file, tmp_path / "theirs.safetensors")
    theirs = read_lora(tmp_path / "theirs.safetensors")
    assert theirs.layout == "diffusers" and inspect(tmp_path / "theirs.safetensors").base == "Tiny Flow"
    assert theirs.by_module().keys() == file.by_module().keys()
