"""Short runs from a configuration to a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_train.config import RunConfig
from lora_train.data import tag_statistics
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.lorafile.reading import read_lora
from lora_train.models import sampling
from lora_train.models.opening import open_model
from lora_train.prompt.syntax import parse_prompt
from lora_train.runs.execute import run_training
from lora_train.runs.folder import RunFolder, list_runs
from lora_train.runs.stages import Stages
from lora_train.train.loop import Trainer
from tests.conftest import draw_pictures

Make = Callable[..., RunConfig]


def test_a_run_writes_the_lora_and_tells_the_truth(make_config: Make, host: StandaloneHost, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    config = make_config(train={"max_train_steps": 3, "seed": 5}, save={"training_comment": "hello"})
    result = run_training(config, host, events.append)
    assert result.path == tmp_path / "loras" / "sara.safetensors"
    assert result.steps == 3 and not result.stopped
    file = read_lora(result.path)
    assert any(v.abs().max() > 0 for k, v in file.tensors.items() if k.startswith("lora_te") and "up" in k)
    assert any(v.abs().max() > 0 for k, v in file.tensors.items() if k.startswith("lora_unet") and "up" in k)
    told = file.metadata
    assert (told["ss_steps"], told["ss_seed"], told["ss_network_dim"]) == ("3", "5", "4")
    assert told["ss_training_comment"] == "hello"
    assert told["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert json.loads(told["ss_tag_frequency"])["pictures"]["sks on colour 0"] == 1
    assert json.loads(told["ss_dataset_dirs"]) == {"pictures": {"n_repeats": 10, "img_count": 4}}
    content = RunFolder(result.folder).read()
    assert content["state"] == "finished" and content["resolved"]["data"]["resolution"] == 128
    assert RunConfig.from_dict(content["config"]) == config
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2, 3]
    assert RunFolder(result.folder).events() == events


def test_the_same_seed_gives_the_same_bits_and_another_does_not(make_config: Make, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((1, 1, 2)):
        host = StandaloneHost(tmp_path / f"data{number}")
        config = make_config(
            train={"max_train_steps": 3, "seed": seed, "noise_offset": 0.1},
            data={"shuffle_caption": True, "flip_aug": True, "caption_dropout_rate": 0.2},
            save={"output_name": f"run{number}", "save_precision": "fp32"},
        )
        path = run_training(config, host).path
        assert path is not None
        found.append(read_lora(path).tensors)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert not all(torch.equal(found[0][k], found[2][k]) for k in found[0])


def test_prepare_then_train_equals_both_at_once(make_config: Make, tmp_path: Path) -> None:
    together = run_training(make_config(save={"output_name": "a"}), StandaloneHost(tmp_path / "one")).path
    host = StandaloneHost(tmp_path / "two")
    config = make_config(save={"output_name": "b"})
    with pytest.raises(LoraTrainError, match="have not been prepared"):
        run_training(config, host, stages=Stages(process=False))
    assert run_training(config, host, stages=Stages(train=False)).path is None
    apart = run_training(config, host, stages=Stages(process=False)).path
    assert together is not None and apart is not None
    first, second = read_lora(together).tensors, read_lora(apart).tensors
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_stopping_saves_what_there_is(make_config: Make, host: StandaloneHost) -> None:
    seen: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            seen.append(event["step"])

    result = run_training(make_config(train={"max_train_steps": 50}), host, listen, lambda: len(seen) >= 2)
    assert result.stopped and result.steps == 2 and result.path is not None
    assert read_lora(result.path).metadata["ss_steps"] == "2"
    assert RunFolder(result.folder).read()["state"] == "stopped"


def test_stopping_while_preparing_writes_no_lora(make_config: Make, host: StandaloneHost) -> None:
    result = run_training(make_config(), host, stopped=lambda: True)
    assert result.stopped and result.path is None
    assert RunFolder(result.folder).read()["state"] == "stopped"


def test_accumulation_over_all_pictures_shows_each_in_every_step(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the gradient is the mean over the micro-batches: see test_loop."""
    seen: list[str] = []
    plain = Trainer._batch

    def watched(self: Trainer, items: list[Any], position: int) -> torch.Tensor:
        seen.extend(item.picture.path.name for item in items)
        return plain(self, items, position)

    monkeypatch.setattr(Trainer, "_batch", watched)
    data = {"train_batch_size": 1, "repeats": 1, "resolution": 64}
    config = make_config(train={"max_train_steps": 2, "gradient_accumulation_steps": -1}, data=data)
    result = run_training(config, host)
    assert RunFolder(result.folder).read()["resolved"]["train"]["gradient_accumulation_steps"] == 4
    assert result.steps == 2 and len(seen) == 8
    assert len(set(seen[:4])) == len(set(seen[4:])) == 4


def test_an_epoch_ends_with_a_step_as_accelerate_has_it(
    make_config: Make, host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five batches in steps of two: 2 + 2 + 1, and each picture once an epoch; so "every epoch" is every third step."""
    draw_pictures(tmp_path / "five", 5)
    seen: list[list[str]] = []
    plain = Trainer._batch

    def watched(self: Trainer, items: list[Any], position: int) -> torch.Tensor:
        seen.append([item.picture.path.name for item in items])
        return plain(self, items, position)

    monkeypatch.setattr(Trainer, "_batch", watched)
    events: list[dict[str, Any]] = []
    config = make_config(
        train={"max_train_steps": 6, "gradient_accumulation_steps": 2},
        data={"folder": str(tmp_path / "five"), "train_batch_size": 1, "repeats": 1, "resolution": 64},
        save={"save_every_n_epochs": 1},
    )
    run_training(config, host, events.append)
    assert [event["epoch"] for event in events if event["kind"] == "step"] == [1, 1, 1, 2, 2, 2]
    assert [event["step"] for event in events if event["kind"] == "saved"] == [3, 6]
    assert len(seen) == 10 and len({name for (name,) in seen[:5]}) == len({name for (name,) in seen[5:]}) == 5


@pytest.mark.parametrize("only", ["network_train_unet_only", "network_train_text_encoder_only"])
def test_one_part_only(make_config: Make, host: StandaloneHost, only: str) -> None:
    path = run_training(make_config(network={only: True}), host).path
    assert path is not None
    prefix = "lora_unet" if "unet" in only else "lora_te"
    assert all(key.startswith(prefix) for key in read_lora(path).tensors)


def test_bf16_is_refused_where_torch_crashes(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.1.2+cu121")
    with pytest.raises(LoraTrainError, match="mixed_precision: torch 2.1 crashes in bf16 on the CPU"):
        run_training(make_config(train={"mixed_precision": "bf16"}), host)
    assert run_training(make_config(train={"max_train_steps": 1}), host).path


@pytest.mark.skipif(torch.__version__.startswith("2.1."), reason="torch 2.1 crashes in bf16 on the CPU")
def test_bf16_trains_and_keeps_fp32_weights(make_config: Make, host: StandaloneHost) -> None:
    config = make_config(train={"mixed_precision": "bf16", "max_train_steps": 2}, save={"save_precision": "fp32"})
    path = run_training(config, host).path
    assert path is not None
    values = read_lora(path).tensors
    down = next(v for k, v in values.items() if k.endswith("lora_down.weight"))
    assert not torch.equal(down, down.bfloat16().float())


def test_intermediate_files_and_previews(make_config: Make, host: StandaloneHost) -> None:
    config = make_config(train={"max_train_steps": 4}, save={"save_every_n_steps": 2})
    config = RunConfig.from_dict(
        config.to_dict() | {"preview": {"prompts": ["sks on blue"], "sample_every_n_steps": 2, "steps": 2}}
    )
    result = run_training(config, host)
    assert [p.name for p in (result.folder / "checkpoints").iterdir()] == ["sara-step00000002.safetensors"]
    names = sorted(p.name for p in (result.folder / "samples").iterdir())
    assert names == ["step00000000-0.png", "step00000002-0.png", "step00000004-0.png"]


def test_a_preview_draws_no_syntax_and_says_so_once(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def sample(_model: Any, request: sampling.Request) -> list[Image.Image]:
        drawn.append(request.prompt)
        return [Image.new("RGB", (8, 8))]

    monkeypatch.setattr(sampling, "sample", sample)
    config = make_config(train={"max_train_steps": 1})
    config = RunConfig.from_dict(config.to_dict() | {"preview": {"prompts": ["(sks:1.2) BREAK blue"]}})
    result = run_training(config, host)
    assert drawn == ["sks blue"] * 2
    notes = [e["text"] for e in RunFolder(result.folder).events() if "The preview" in e.get("text", "")]
    assert len(notes) == 2 and "weights of words" in notes[0] and "BREAK" in notes[1]


def test_a_loss_that_is_no_number_stops_the_run(make_config: Make, host: StandaloneHost) -> None:
    with pytest.raises(LoraTrainError, match="no longer a number, at step"):
        run_training(make_config(train={"learning_rate": 10.0, "max_train_steps": 200, "max_grad_norm": 0.0}), host)
    run = list_runs(host.data_dir() / "runs")[0]
    assert run.read()["state"] == "failed"
    assert run.read()["problems"][0]["fix"].startswith("Lower the learning rate")


def test_all_bad_input_is_told_at_once_and_nothing_is_written(host: StandaloneHost, tmp_path: Path) -> None:
    config = RunConfig.from_dict(
        {
            "model": {"path": str(tmp_path / "nothing.ckpt")},
            "data": {"folder": str(tmp_path / "nowhere")},
            "train": {"max_train_steps": 0},
            "save": {"output_name": "a/b", "output_dir": str(tmp_path / "loras")},
        }
    )
    with pytest.raises(LoraTrainError) as caught:
        run_training(config, host)
    assert len(caught.value.problems) == 4
    assert list(tmp_path.iterdir()) == []


def test_long_captions_and_too_many_tags_are_said_before_the_training(
    make_config: Make, host: StandaloneHost, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_statistics, "MOST", 1000)
    many = ", ".join(f"tag {number}" for number in range(100))
    (pictures / "picture-0.txt").write_text(f"{many}, sks", encoding="utf-8")
    events: list[dict[str, Any]] = []
    result = run_training(make_config(train={"max_train_steps": 1}), host, events.append)
    first_step = next(number for number, event in enumerate(events) if event["kind"] == "step")
    told = "\n".join(event["text"] for event in events[:first_step] if event["kind"] == "note")
    assert "1 of 4 captions is longer than the 225 tokens that the model reads (picture-0.png: " in told
    assert "In 1 of them the tag was in the rest" in told
    assert "different tags, too many for a LoRA's metadata" in told
    assert result.path is not None
    kept = json.loads(read_lora(result.path).metadata["ss_tag_frequency"])["pictures"]
    assert kept["sks"] == 1 and 20 < len(kept) < 100


def test_a_caption_of_150_words_trains_whole(make_config: Make, host: StandaloneHost, pictures: Path) -> None:
    """What it needs is chosen and said, each preview reads its own prompt, and 75 tokens cut it, with its name."""
    (pictures / "picture-0.txt").write_text(" ".join(["star"] * 150), encoding="utf-8")
    for asked, expected in ((None, "150"), (75, "None")):
        events: list[dict[str, Any]] = []
        options = {"max_token_length": asked, "tag": ""}
        config = make_config(
            data=options, train={"max_train_steps": 2}, save={"output_name": f"a{asked}"}, preview={"steps": 2}
        )
        result = run_training(config, host, events.append)
        assert result.path is not None and read_lora(result.path).metadata["ss_max_token_length"] == expected
        told = "\n".join(event["text"] for event in events if event["kind"] == "note")
        assert ("picture-0.png: 150" in told) is (asked is not None)
        chosen = {one["field"]: one for event in events for one in event.get("choices", ())}
        assert ("data.max_token_length" in chosen) is (asked is None)
    assert "longer than the 75 tokens" in told


def test_preserving_keeps_what_is_drawn_without_the_tag(make_config: Make, base: Path, tmp_path: Path) -> None:
    """The LoRA's change to the prediction, with and without the tag in the caption: preserving lowers the second."""
    changes = {}
    for share in (0.0, 1.0):
        options = {"max_train_steps": 25, "learning_rate": 5e-3, "preserve": share}
        config = make_config(train=options, save={"output_name": f"p{share:.0f}"})
        path = run_training(config, StandaloneHost(tmp_path / f"data{share:.0f}")).path
        assert path is not None
        changes[share] = _changes(base, path, ("sks on colour 0", "on colour 0"))
    assert changes[1.0][1] < 0.5 * changes[0.0][1]
    assert changes[1.0][1] < changes[1.0][0]


def _changes(base: Path, lora: Path, captions: tuple[str, ...]) -> list[float]:
    """How far the prediction for noise moves by the LoRA under each caption."""
    model = open_model(base)
    applier = Applier(modules_by_file_name(model))
    noise, t = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([200, 500, 800, 990])
    predicted = []
    for strength in (0, 1):
        applier.apply([(tag, lora) for tag in parse_prompt(f"<lora:x:{strength}>").tags])
        with torch.no_grad():
            predicted.append([model.predict(noise, t, model.encode_text([text] * 4)) for text in captions])
    return [float((one - other).norm()) for one, other in zip(*predicted)]
