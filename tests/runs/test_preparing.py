"""The preparing stage inside a run and on the command line."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_train.captions.edit import add
from lora_train.captions.journal import edit_captions
from lora_train.cli import build_parser, main
from lora_train.cli.prepare import prepare_of
from lora_train.cli.train import config_of
from lora_train.config import PrepareOptions, RunConfig
from lora_train.data.formats.kohya_metadata import read_metadata
from lora_train.data.scan import scan
from lora_train.datasets.captioning import captioning_problems
from lora_train.demo.files import base_folder
from lora_train.errors import LoraTrainError
from lora_train.hosts.base import CAPTION_KINDS
from lora_train.hosts.standalone import StandaloneHost
from lora_train.hosts.webui import WebuiHost
from lora_train.lorafile.reading import read_lora
from lora_train.runs.execute import run_training
from lora_train.runs.folder import RunFolder
from lora_train.runs.preparing import alone_in, services_of, with_target, work_folder
from lora_train.runs.service import Service
from lora_train.runs.stages import Stages
from tests.conftest import draw_pictures

pytest.importorskip("scipy", reason="the formulas need scipy")
Make = Callable[..., RunConfig]
OPERATIONS = ("original", "similar", "resize", "interrogate")


class Captions(StandaloneHost):
    """A host with a captioner and a tagger."""

    asked = 0

    def caption_kinds(self) -> tuple[str, ...]:
        return CAPTION_KINDS

    def caption(self, pictures: Iterable[Image.Image], kind: str) -> Iterator[str]:
        for picture in pictures:
            self.asked += 1
            yield f"a picture {picture.width} wide, more words" if kind == "blip" else "square, (flat:1.2)"


@pytest.fixture
def config(make_config: Make, pictures: Path) -> RunConfig:
    draw_pictures(pictures, 5)
    (pictures / "picture-4.txt").unlink()
    (pictures / "broken.png").write_bytes(b"no picture")
    made = make_config(save={"save_precision": "fp32"})
    return RunConfig.from_dict(
        made.to_dict()
        | {"prepare": {"operations": list(OPERATIONS), "target": 64, "min_size": 0, "max_similarity": 1.0}}
    )


def files(folder: Path, work: Path) -> dict[str, bytes]:
    """All that was made below a folder, without the names of its own place."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(str(work).encode(), b"WORK")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_trains_on_what_was_prepared_and_says_why_not_on_the_rest(config: RunConfig, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in Path(config.data.folder).iterdir()}
    host = Captions(tmp_path / "one")
    result = run_training(config, host)
    events = RunFolder(result.folder).events()
    assert any(e["kind"] == "rejected" and e["file"] == "broken.png" and e["reason"] for e in events)
    assert {e["stage"] for e in events if e["kind"] == "prepare"} == {"pictures", "captions", "tags", "latents"}
    assert result.path is not None
    told = read_lora(result.path).metadata
    captions = {c for folder in json.loads(told["ss_tag_frequency"]).values() for c in folder}
    assert captions == {"sks", "picture 64 wide", "square", "flat", *(f"sks on colour {n}" for n in range(4))}
    assert {p.name: p.read_bytes() for p in Path(config.data.folder).iterdir()} == before


def test_notrain_then_noprocess_equals_both_at_once(config: RunConfig, pictures: Path, tmp_path: Path) -> None:
    """The LoRA, the captions, the metadata and the masks (by alpha), byte for byte."""
    picture = Image.new("RGB", (128, 128), "red")
    picture.putalpha(Image.radial_gradient("L").resize((128, 128)))
    picture.save(pictures / "see-through.png")
    # one look at each picture in three batches of two
    config = replace(config, train=replace(config.train, masked_loss=True), data=replace(config.data, repeats=1))
    together = run_training(config, Captions(tmp_path / "one")).path
    assert together is not None
    tensors = read_lora(together).tensors
    together.unlink()
    host = Captions(tmp_path / "two")
    with pytest.raises(LoraTrainError, match="have not been prepared"):
        run_training(config, host, stages=Stages(process=False))
    assert run_training(config, host, stages=Stages(train=False)).path is None
    (one,), (two,) = ((tmp_path / name / "prepared").iterdir() for name in ("one", "two"))
    for what in ("pictures", "masks"):
        made = files(one / what, one)
        assert made and made == files(two / what, two)
    assert files(one, one)["metadata.json"] == files(two, two)["metadata.json"]
    assert any(name.endswith("see-through.txt") for name in files(one / "pictures", one))
    asked = host.asked
    apart = run_training(config, host, stages=Stages(process=False)).path
    assert apart is not None and host.asked == asked
    other = read_lora(apart).tensors
    assert tensors.keys() == other.keys() and all(torch.equal(tensors[k], other[k]) for k in tensors)
    (plain,) = [run_training(without_masks(config, tmp_path / "loras"), host, stages=Stages(process=False)).path]
    assert plain and any(not torch.equal(tensors[k], value) for k, value in read_lora(plain).tensors.items())


def without_masks(config: RunConfig, folder: Path) -> RunConfig:
    """The same run with the whole pictures, under another name."""
    train, save = replace(config.train, masked_loss=False), replace(config.save, output_name="plain")
    return replace(config, train=train, save=save)


def test_the_buckets_of_the_run_are_in_the_metadata(config: RunConfig, tmp_path: Path) -> None:
    config = replace(config, data=replace(config.data, resolution=128))
    run_training(config, Captions(tmp_path / "one"))
    (file,) = (tmp_path / "one" / "prepared").glob("*/metadata.json")
    assert {entry.train_resolution for entry in read_metadata(file).values()} == {(128, 128)}
    assert {entry.image_size for entry in read_metadata(file).values()} == {(64, 64)}


def test_nolatents(config: RunConfig, tmp_path: Path) -> None:
    host = Captions(tmp_path / "one")
    assert run_training(config, host, stages=Stages(train=False, latents=False)).path is None
    assert host.asked and not (tmp_path / "one" / "cache").exists()
    with pytest.raises(LoraTrainError, match="have not been prepared.*nolatents"):
        run_training(config, host, stages=Stages(latents=False))
    assert run_training(config, host, stages=Stages(train=False)).path is None
    assert run_training(config, host, stages=Stages(latents=False)).path


def test_how_the_target_is_chosen(make_config: Make, tmp_path: Path) -> None:
    asked = replace(make_config(data={"resolution": 192}), prepare=PrepareOptions(target=96))
    assert with_target(asked)[0].target == 96
    assert with_target(make_config(data={"resolution": 192}))[0].target == 192
    own, why = with_target(make_config())
    assert own.target == json.loads((base_folder() / "unet" / "config.json").read_text())["sample_size"] * 8
    assert "trained at" in why


def test_a_program_is_not_run_for_a_webuis_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebuiHost, "may_run_programs", lambda self: False)
    monkeypatch.setattr(WebuiHost, "device", lambda self: "auto")
    options = PrepareOptions(
        operations=("interrogate",), captioner="command", captioner_command=(sys.executable, "{picture}")
    )
    assert not captioning_problems(options, StandaloneHost(tmp_path))
    (problem,) = captioning_problems(options, WebuiHost())
    assert "command line only" in problem.what and "settings" in problem.what
    with pytest.raises(LoraTrainError, match="command line only"):
        services_of(WebuiHost(), options)


def test_what_a_captioner_lacks_is_told_before_anything_starts(config: RunConfig, tmp_path: Path) -> None:
    prepare = replace(
        config.prepare,
        captioner="command",
        captioner_command=("no-such-program", "{picture}"),
        tagger="wd14",
        tagger_model=str(tmp_path / "nowhere"),
        caption_template="{tag} {nonsense}",
    )
    host = StandaloneHost(tmp_path / "one")
    with pytest.raises(LoraTrainError) as caught:
        run_training(replace(config, prepare=prepare), host)
    told = str(caught.value)
    assert "no such program" in told and "{nonsense}" in told and ("onnxruntime" in told or "model.onnx" in told)
    assert not (tmp_path / "one").exists()


def test_a_command_captions(config: RunConfig, tmp_path: Path) -> None:
    script = tmp_path / "say.py"
    script.write_text("import sys; from PIL import Image; print('a thing of', Image.open(sys.argv[1]).size[0])")
    command = (sys.executable, str(script), "{picture}")
    prepare = replace(config.prepare, captioner="command", captioner_command=command, tagger="none")
    run_training(replace(config, prepare=prepare), StandaloneHost(tmp_path / "one"), stages=Stages(train=False))
    (work,) = (tmp_path / "one" / "prepared").iterdir()
    assert next(work.rglob("picture-4.txt")).read_text() == "sks, thing of 64\n"


def test_the_command_line(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    command = ["prepare", "--input", str(pictures), "--process", "original,blur,resize", "--min-size", "0"]
    assert main([*command, "--target", "64", "--blur-score", "9"]) == 0
    told = capsys.readouterr().out
    assert "4 pictures kept" in told
    report = json.loads(Path(told.split("Report")[1].strip()).read_text())
    assert [line["outcome"] for line in report["pictures"]] == ["kept"] * 4
    assert main(["prepare", "--input", str(tmp_path / "nowhere"), "--process", "face,nonsense"]) == 2
    errors = capsys.readouterr().err
    assert "no such folder" in errors and "nonsense" in errors


def test_a_data_folder_among_the_pictures_is_no_input(config: RunConfig, tmp_path: Path) -> None:
    folder = Path(config.data.folder)
    other = draw_pictures(folder / "other", 2)
    before = [one.path for one in scan(folder).pictures]
    host = StandaloneHost(folder / "lora-train-data")
    run_training(RunConfig.from_dict(config.to_dict() | {"data": {"folder": str(other)}}), host)
    assert [one.path for one in scan(folder).pictures] == before
    report = edit_captions(folder, [add("sara")], tmp_path / "journal")
    assert {file.parent for file in report.changed} == {folder, other}


def test_a_folder_whose_name_looks_like_somebodys_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    draw_pictures(Path("~nobody-here"), 1)
    model = str(base_folder())
    for command in ("prepare --process resize --input", f"train --model {model} --output sara --input"):
        assert main([*command.split(), "~nobody-here"]) == 2
        assert "home directory" in capsys.readouterr().err
    assert main(["captions", "~nobody-here", "add", "sara"]) == 0
    assert main(["prepare", "--process", "resize", "--target", "64", "--input", str(tmp_path / "~nobody-here")]) == 0


def test_a_server_that_does_not_answer_is_told_with_the_rest(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    command = ["--input", str(pictures), "--server", "http://127.0.0.1:9", "--process"]
    assert main(["prepare", *command, "original,upscale", "--input", "", "--background", "pink"]) == 2
    told = capsys.readouterr().err
    assert "does not answer" in told and "no colour" in told and "no folder is named" in told
    assert main(["train", *command, "original,interrogate", "--model", "nowhere", "--output", "sara"]) == 2
    told = capsys.readouterr().err
    assert "does not answer" in told and "nowhere" in told
    assert not (tmp_path / "data").exists()


def test_the_same_pictures_are_not_prepared_twice_at_once(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    host = StandaloneHost()
    with alone_in(work_folder(Path(config.data.folder), host)):
        assert main(["prepare", "--input", config.data.folder, "--target", "64"]) == 2
        assert "being prepared already" in capsys.readouterr().err
        with pytest.raises(LoraTrainError, match="being prepared already"):
            run_training(config, host, stages=Stages(train=False))
        service = Service(host)
        id = service.datasets.start(config.data.folder, replace(config.prepare, operations=("original",)))
        assert service.datasets.wait() and "being prepared already" in str(service.datasets.status(id))
    assert not list((tmp_path / "data" / "prepared").glob("*/*"))


def test_several_folders_in_one_batch(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    (tmp_path / "empty").mkdir()
    other = draw_pictures(tmp_path / "other", 2)
    named = ["--input", str(pictures), "--input", str(tmp_path / "empty"), "--input", str(other)]
    assert main(["prepare", *named, "--process", "original,resize", "--target", "64"]) == 2
    told = capsys.readouterr()
    assert "4 pictures kept" in told.out and "2 pictures kept" in told.out  # the empty one stops neither
    assert "no pictures in this folder" in told.err
    assert len(list((tmp_path / "data" / "prepared").iterdir())) == 2


def test_flags_become_options() -> None:
    line = """--input x --process face,segment,interrogate
        --face-score 0.6 --face-pad 0.2 --body-score 0.8 --body-pad 0.3
        --body-visibility 0.4 --body-parts 12 --restore-weight 0.5 --upscaler Lanczos --segment-threshold 0.3
        --background #102030 --sdxl --tag-limit 7 --captioner command --captioner-command 'say {picture}' --tagger wd14
        --tagger-model m --tag-threshold 0.4 --character-threshold 0.9 --tag-blacklist 'a b, c*' --recaption --backup
        --caption-template {tags} --workers 3 --min-size 100 --blur-score 2 --range-score 0.1 --similar-score 0.9"""
    expected = PrepareOptions(
        operations=("face", "segment", "interrogate"),
        target=1024,
        min_size=100,
        background="#102030",
        face_score=0.6,
        face_pad=0.2,
        body_score=0.8,
        body_pad=0.3,
        body_visibility=0.4,
        body_parts=12,
        upscaler="Lanczos",
        restore_weight=0.5,
        segment_threshold=0.3,
        max_blur=2.0,
        min_range=0.1,
        max_similarity=0.9,
        captioner="command",
        captioner_command=("say", "{picture}"),
        tagger="wd14",
        tagger_model="m",
        tag_threshold=0.4,
        character_threshold=0.9,
        tag_limit=7,
        tag_blacklist=("a b", "c*"),
        caption_template="{tags}",
        recaption=True,
        backup=True,
        workers=3,
    )
    for command in ("prepare", "train"):
        parsed = build_parser().parse_args([command, *shlex.split(line)])
        assert prepare_of(parsed) == expected
        parsed = build_parser().parse_args([command, *shlex.split(line), "--nocaptions"])
        assert prepare_of(parsed).operations == ("face", "segment")
    plain = prepare_of(build_parser().parse_args(["train", "--input", "x"]))
    assert plain == PrepareOptions()


def test_flags_of_masks_latents_and_others_files() -> None:
    line = "--in_json a --dataset_config b --masked-loss --mask-folder c --read-npz --write-npz"
    config = config_of(build_parser().parse_args(["train", *line.split()]), "", "")
    data = config.data
    assert (data.in_json, data.dataset_config, data.mask_folder) == ("a", "b", "c")
    assert data.read_npz and data.write_npz and config.train.masked_loss
