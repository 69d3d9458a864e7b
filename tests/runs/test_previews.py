"""Previews: their lines checked before the start, their shape, other LoRAs in them, and when they are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import read_lora
from lora_train.models import sampling
from lora_train.runs.execute import run_training
from lora_train.runs.folder import RunFolder

Make = Callable[..., RunConfig]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[sampling.Request, float]]:
    """What the sampler is asked for, and the sum of a weight of the base at that moment."""
    found: list[tuple[sampling.Request, float]] = []

    def sample(model: Any, request: sampling.Request) -> list[Image.Image]:
        found.append((request, weight_of(model)))
        return [Image.new("RGB", (8, 8))]

    monkeypatch.setattr(sampling, "sample", sample)
    return found


def weight_of(model: Any) -> float:
    return sum(float(value.double().sum()) for value in model.unet.parameters())


def test_all_that_is_wrong_with_the_lines_is_said_before_the_start(make_config: Make, host: StandaloneHost) -> None:
    lines = ["a --w 10", "a <lora:nobody:1>", "a <lora:x:0,8>", "fine <lora:sara:1>"]
    with pytest.raises(LoraTrainError) as caught:
        run_training(make_config(preview={"prompts": tuple(lines)}), host)
    said = [str(one) for one in caught.value.problems]
    assert len(said) == 3 and all(one.startswith("preview.prompts: ") for one in said)
    assert "--w 10 is out of range" in said[0] and "no LoRA called 'nobody'" in said[1] and "write 0.8" in said[2]
    assert not (host.data_dir() / "runs").exists()
    with pytest.raises(LoraTrainError, match=r"preview\.sample_prompts.*cannot be read"):
        run_training(make_config(preview={"sample_prompts": str(host.data_dir() / "none.txt")}), host)


def test_lines_of_the_options_and_of_the_file(
    make_config: Make, host: StandaloneHost, tmp_path: Path, asked: list[tuple[sampling.Request, float]]
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog --n blur --w 100 --h 128 --d 9 --s 3 --l 2 --ss ddim\n")
    config = make_config(
        preview={
            **{"prompts": ("a cat",), "sample_prompts": str(path), "steps": 5, "seed": 4, "guidance": 3.0},
            **{"sample_at_first": False, "sampler": "euler"},
        }
    )
    folder = RunFolder(run_training(config, host).folder)
    cat, dog = (request for request, _ in asked)
    assert (cat.prompt, cat.negative, cat.seeds, cat.steps, cat.guidance, cat.sampler) == (
        *("a cat", "", [4], 5, 3.0, "euler"),
    )
    assert dog == sampling.Request("a dog", [9], 100, 128, "blur", 3, 2.0, 1, "ddim")
    events = folder.events()
    assert [e["prompt"] for e in events if e["kind"] == "preview"] == ["a cat", path.read_text().strip()]
    notes = [e["text"] for e in events if e["kind"] == "note"]
    assert any("100 becomes 96, a multiple of 8" in text for text in notes)


def test_the_shape_is_the_pictures_own(
    make_config: Make, host: StandaloneHost, pictures: Path, asked: list[tuple[sampling.Request, float]]
) -> None:
    """Most of them are upright."""
    for number, file in enumerate(sorted(pictures.glob("*.png"))):
        with Image.open(file) as picture:
            shape = (160, 96) if number == 0 else (96, 160)
            picture.convert("RGB").resize(shape).save(file)
    config = make_config(data={"resolution": 128}, preview={"prompts": ("a",)}, train={"max_train_steps": 1})
    run_training(config, host)
    (width, height), *_ = {(request.width, request.height) for request, _ in asked}
    assert width < height and width % 8 == height % 8 == 0


def test_other_loras_are_in_it_and_leave_no_trace(
    make_config: Make, host: StandaloneHost, asked: list[tuple[sampling.Request, float]]
) -> None:
    """The trained file has the same bits as without previews."""
    usual: dict[str, Any] = {"save": {"output_dir": str(host.lora_dir()), "save_precision": "fp32"}}
    other = make_config(save=usual["save"] | {"output_name": "other"}, train={"learning_rate": 0.01, "seed": 9})
    run_training(other, host)
    plain = run_training(make_config(save=usual["save"] | {"output_name": "plain"}), host).path
    lines = ["a <lora:other:2>", "a <lora:with:1>", "a"]
    options = {"prompts": tuple(lines), "sample_every_n_steps": 1}
    done = run_training(make_config(save=usual["save"] | {"output_name": "with"}, preview=options), host)
    weights = [weight for _, weight in asked]
    assert len(weights) == 12 and weights[1::3] == weights[2::3] and len({*weights[1::3]}) == 1
    assert all(one != weights[1] for one in weights[::3])
    assert plain is not None and done.path is not None
    one, two = read_lora(plain).tensors, read_lora(done.path).tensors
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    notes = [e["text"] for e in RunFolder(done.folder).events() if e["kind"] == "note"]
    assert sum("the LoRA being trained is in it anyway" in text for text in notes) == 1


def test_previews_by_epochs_and_none_at_the_start(
    make_config: Make, host: StandaloneHost, asked: list[tuple[sampling.Request, float]]
) -> None:
    """4 pictures in batches of 2, once an epoch: an epoch has 2 steps."""
    config = make_config(
        data={"repeats": 1},
        train={"max_train_steps": 7},
        preview={"prompts": ("a",), "sample_every_n_epochs": 2, "sample_at_first": False},
    )
    folder = RunFolder(run_training(config, host).folder)
    events = folder.events()
    per_epoch = max(e["step"] for e in events if e["kind"] == "step" and e["epoch"] == 1)
    expected = [step for step in range(1, 7) if step % (2 * per_epoch) == 0] + [7]
    assert [e["step"] for e in events if e["kind"] == "preview"] == expected and len(expected) > 1


@pytest.mark.parametrize("name", ["ddim", "euler_a", "heun", "dpm_2_a", "dpmsingle", "pndm"])
def test_samplers_make_pictures_that_repeat(name: str, base: Path) -> None:
    """Those that draw noise draw it from the seed, and leave the process's generator alone."""
    from lora_train.models.opening import open_model

    model = open_model(base)
    model.to(torch.device("cpu"), torch.float32)
    state = torch.get_rng_state()
    first, again = (
        sampling.sample(model, sampling.Request("a star", [1], 64, 64, steps=4, guidance=2.0, sampler=name))[
            0
        ].tobytes()
        for _ in range(2)
    )
    usual = sampling.sample(model, sampling.Request("a star", [1], 64, 64, steps=4, guidance=2.0))[0].tobytes()
    assert first == again != usual and torch.equal(state, torch.get_rng_state())
