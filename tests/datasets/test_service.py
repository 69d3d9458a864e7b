"""Datasets behind the page: preparing in the background, decisions that stay, captions that a run uses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.captions.edit import add, remove
from lora_train.config import PrepareOptions, RunConfig
from lora_train.datasets.dataset import Dataset, Filter
from lora_train.datasets.service import Datasets
from lora_train.errors import LoraTrainError, Unknown
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lock import RunLock
from lora_train.lorafile.reading import read_lora
from lora_train.runs.execute import run_training
from lora_train.runs.service import Service
from tests.prepare.samples import noise
from tests.runs.test_service import wait_for_step

OPTIONS = PrepareOptions(
    operations=("original", "range", "similar", "resize"), target=64, min_size=100, min_range=0.05, workers=1
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good pictures (one with a caption), a larger copy of one, a small one, and a broken one."""
    folder = tmp_path / "sara"
    folder.mkdir()
    for number in range(3):
        noise(number).save(folder / f"{number}.png")
    (folder / "1.caption").write_text("a woman, hat\n")
    noise(0).resize((200, 150)).save(folder / "0-again.png")
    noise(5, (80, 60)).save(folder / "small.png")
    (folder / "broken.png").write_text("no picture")
    return folder


@pytest.fixture
def datasets(host: StandaloneHost) -> Datasets:
    return Service(host).datasets


def prepared(datasets: Datasets, folder: Path, options: PrepareOptions = OPTIONS) -> Dataset:
    id = datasets.start(str(folder), options)
    assert datasets.wait(60)
    return datasets.get(id)


def by_file(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {line["file"]: line for line in dataset.lines()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_outcomes_reasons_and_counts(datasets: Datasets, folder: Path) -> None:
    before = contents(folder)
    dataset = prepared(datasets, folder)
    lines = by_file(dataset)
    assert {name for name, line in lines.items() if line["outcome"] == "kept"} == {"0-again.png", "1.png", "2.png"}
    assert "only 80 px wide; needs 100" in lines["small.png"]["reason"]
    assert "similar to 0-again.png" in lines["0.png"]["reason"]
    assert dataset.picture(lines["0.png"]["key"])["twin"]["file"] == "0-again.png"
    counts = dataset.counts()
    assert (counts["all"], counts["kept"], counts["rejected"], counts["pending"]) == (6, 3, 3, 0)
    assert counts["rules"]["similar"] == 1 and counts["rules"]["too small"] == 1
    status = datasets.status(dataset.id)
    assert status["job"]["state"] == "prepared" and (status["job"]["done"], status["job"]["total"]) == (6, 6)
    assert contents(folder) == before


def test_pages_and_filters(datasets: Datasets, folder: Path) -> None:
    dataset = prepared(datasets, folder)

    def files(start: int = 0, count: int = 60, **wanted: str) -> list[str]:
        return [one["file"] for one in dataset.page(start, count, Filter(**wanted))["pictures"]]

    assert files() == ["0-again.png", "0.png", "1.png", "2.png", "broken.png", "small.png"]
    assert files(2, 2) == ["1.png", "2.png"] and files(6) == []
    assert files(outcome="rejected", rule="similar") == ["0.png"]
    assert files(text="BRO") == ["broken.png"]
    assert files(tag="hat") == ["1.png"] and files(tag="h") == []
    assert dataset.page(0, 1, Filter(outcome="kept"))["total"] == 3


def test_a_decision_is_carried_out_and_remembered(datasets: Datasets, folder: Path) -> None:
    dataset = prepared(datasets, folder)
    lines = by_file(dataset)
    assert datasets.overrule(dataset.id, lines["small.png"]["key"], True) == ""
    assert datasets.overrule(dataset.id, lines["1.png"]["key"], False) == ""
    assert by_file(dataset)["1.png"]["outcome"] == "rejected"  # shown at once, carried out or not
    assert datasets.wait(60)
    for _ in range(2):
        assert (dataset.pictures / "small.png").is_file() and not (dataset.pictures / "1.png").exists()
        dataset = prepared(datasets, folder)
        assert dataset.counts()["pending"] == 0
    with pytest.raises(LoraTrainError, match="not a picture"):
        datasets.overrule(dataset.id, lines["broken.png"]["key"], True)
    with pytest.raises(Unknown):
        datasets.overrule(dataset.id, "0", True)
    datasets.overrule(dataset.id, lines["1.png"]["key"], None)
    assert datasets.wait(60) and (dataset.pictures / "1.png").is_file()


def test_a_run_uses_decisions_and_captions(
    datasets: Datasets, folder: Path, make_config: Callable[..., RunConfig], host: StandaloneHost
) -> None:
    dataset = prepared(datasets, folder)
    datasets.overrule(dataset.id, by_file(dataset)["small.png"]["key"], True)
    assert datasets.wait(60)
    dataset = datasets.get(dataset.id)
    dataset.write_caption(by_file(dataset)["small.png"]["key"], "written on the page")
    dataset.edit([add("sks"), remove("hat")])
    config = make_config(data={"folder": str(dataset.pictures), "tag": ""}, train={"max_train_steps": 1})
    trained_on = run_training(config, host).path
    assert trained_on is not None
    told = json.loads(read_lora(trained_on).metadata["ss_tag_frequency"])["sara"]
    assert told["written on the page"] == 1 and told["sks"] == 2 and "hat" not in told


def test_captions_stay_in_the_copy_until_asked(datasets: Datasets, folder: Path) -> None:
    before = contents(folder)
    dataset = prepared(datasets, folder)
    key = by_file(dataset)["1.png"]["key"]
    dataset.write_caption(key, "a man,  hat ")
    dataset = prepared(datasets, folder)
    assert dataset.picture(key)["caption"] == "a man, hat" and contents(folder) == before
    assert dataset.write_beside() == 1 and dataset.write_beside() == 0
    after = contents(folder)
    assert after.pop("1.caption") == b"a man, hat\n" and after.pop("1.caption.bak") == before.pop("1.caption")
    assert after == before
    with pytest.raises(LoraTrainError, match="left out"):
        dataset.write_caption(by_file(dataset)["0.png"]["key"], "x")


def test_alternatives_in_a_caption_file_stay_when_one_is_typed_and_written_back(
    datasets: Datasets, folder: Path
) -> None:
    (folder / "1.caption").write_text("# made by x\na woman, hat\na portrait\n")
    dataset = prepared(datasets, folder)
    key = by_file(dataset)["1.png"]["key"]
    dataset.write_caption(key, "a man")
    assert dataset.write_beside() == 1 and dataset.write_beside() == 0
    assert (folder / "1.caption").read_text() == "# made by x\na man\na portrait\n"
    dataset.write_caption(key, "")
    assert dataset.picture(key)["caption"] == ""


def test_one_undo_for_what_is_typed_and_bulk_edits(datasets: Datasets, folder: Path) -> None:
    dataset = prepared(datasets, folder)
    one, bare = by_file(dataset)["1.png"]["key"], by_file(dataset)["2.png"]["key"]
    assert dataset.undoable() == "" and dataset.picture(bare)["caption"] is None
    dataset.write_caption(bare, "a dog")
    assert dataset.preview([add("sks")])["total"] == 2
    assert len(dataset.edit([add("sks")]).changed) == 2
    dataset.write_caption(one, "mine")
    assert dataset.undoable() == "caption of 1.png" and dict(dataset.tags()) == {"mine": 1, "sks": 1, "a dog": 1}
    dataset.undo()
    assert dataset.picture(one)["caption"] == "sks, a woman, hat"
    dataset.undo()
    assert dataset.picture(one)["caption"] == "a woman, hat" and dataset.picture(bare)["caption"] == "a dog"
    dataset.undo()
    assert dataset.picture(bare)["caption"] is None
    with pytest.raises(LoraTrainError, match="no edit to undo"):
        dataset.undo()


def test_all_problems_together(datasets: Datasets, tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError) as told:
        datasets.start(str(tmp_path / "nowhere"), PrepareOptions(operations=("nonsense",), target=1))
    assert {p.where for p in told.value.problems} == {"data.folder", "prepare.operations", "prepare.target"}
    for name in (" ", "a\0b", "~nobody-of-that-name/x"):
        with pytest.raises(LoraTrainError):
            datasets.start(name, OPTIONS)
    (tmp_path / "empty").mkdir()
    id = datasets.start(str(tmp_path / "empty"), OPTIONS)
    assert datasets.wait(60)
    status = datasets.status(id)
    assert status["job"]["state"] == "failed" and "no pictures" in status["job"]["problems"][0]["what"]
    with pytest.raises(Unknown):
        datasets.status("another")
    assert not datasets.busy and datasets.all() == []


class Slow(StandaloneHost):
    """A host whose captioner waits until it may go on."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def caption_kinds(self) -> tuple[str, ...]:
        return ("blip",)

    def caption(self, pictures: Iterable[Image.Image], kind: str) -> Iterator[str]:
        for _ in pictures:
            self.begun.set()
            assert self.go_on.wait(60)
            yield "a caption"


WITH_MODEL = PrepareOptions(operations=("original", "interrogate"), min_size=0, workers=1)


def test_the_tag_of_captions_is_remembered(folder: Path, tmp_path: Path) -> None:
    host = Slow(tmp_path / "data")
    host.go_on.set()
    datasets = Service(host).datasets
    id = datasets.start(str(folder), WITH_MODEL, "sara")
    assert datasets.wait(60)
    key = by_file(datasets.get(id))["2.png"]["key"]
    datasets.overrule(id, by_file(datasets.get(id))["1.png"]["key"], False)
    assert datasets.wait(60)
    assert datasets.get(id).picture(key)["caption"] == "sara, caption" and datasets.get(id).tag == "sara"


def test_stop(folder: Path, tmp_path: Path) -> None:
    host = Slow(tmp_path / "data")
    datasets = Service(host).datasets
    id = datasets.start(str(folder), WITH_MODEL)
    assert host.begun.wait(60)
    with pytest.raises(LoraTrainError, match="being prepared already"):
        datasets.start(str(folder), OPTIONS)
    assert not datasets.stop("another") and datasets.stop(id)
    host.go_on.set()
    assert datasets.wait(60) and datasets.status(id)["job"]["state"] == "stopped"
    assert not datasets.stop(id)


def test_no_training_starts_while_pictures_are_prepared(
    folder: Path, tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    host = Slow(tmp_path / "data")
    service, elsewhere = Service(host), Service(host)
    service.datasets.start(str(folder), WITH_MODEL)
    assert host.begun.wait(60)
    for one in (service, elsewhere):  # another process has but the lock
        with pytest.raises(LoraTrainError, match="being prepared"):
            one.start(make_config())
    host.go_on.set()
    assert service.datasets.wait(60)
    run_id = service.start(make_config(train={"max_train_steps": 1}))
    assert service.wait(60) and service.run(run_id).read()["state"] == "finished"


def test_beside_a_training_only_without_models(
    folder: Path, tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    host = Slow(tmp_path / "data")
    host.go_on.set()
    service = Service(host)
    dataset = prepared(service.datasets, folder, WITH_MODEL)
    run = service.run(service.start(make_config(train={"max_train_steps": 100_000})))
    wait_for_step(run, 1)
    try:
        with pytest.raises(LoraTrainError, match="a training has the GPU, which interrogate would need"):
            service.datasets.start(str(folder), WITH_MODEL)
        assert "GPU" in service.datasets.overrule(dataset.id, by_file(dataset)["1.png"]["key"], False)
        assert dataset.counts()["pending"] == 1  # remembered, and carried out at the next preparation
        assert prepared(service.datasets, folder).counts()["pending"] == 0 and service.busy
    finally:
        service.stop(run.id)
        assert service.wait(60)


def test_not_while_a_training_uses_the_dataset(
    folder: Path, tmp_path: Path, host: StandaloneHost, make_config: Callable[..., RunConfig]
) -> None:
    """Masks, and the picture of the LoRA's card, are read when it trains."""
    from lora_train.runs.folder import RunFolder

    service = Service(host)
    dataset = prepared(service.datasets, folder)
    run = RunFolder.create(service.runs_dir, make_config(data={"folder": str(dataset.pictures)}))
    run.update(state="training")
    with RunLock(run.path):
        with pytest.raises(LoraTrainError, match="uses the pictures of this dataset"):
            service.datasets.start(str(folder), OPTIONS)
        assert "uses the pictures" in service.datasets.overrule(dataset.id, by_file(dataset)["1.png"]["key"], False)
        another = folder.with_name("another")
        folder.rename(another)
        prepared(service.datasets, another)


def test_a_folder_that_is_gone_is_named_where_nobody_typed_it(datasets: Datasets, folder: Path) -> None:
    dataset = prepared(datasets, folder)
    folder.rename(folder.with_name("elsewhere"))
    waits = datasets.overrule(dataset.id, by_file(dataset)["1.png"]["key"], False)
    assert waits == f"{folder}: there is no such folder. Give the folder that holds your pictures."
    with pytest.raises(LoraTrainError) as raised:  # here it is the field's
        datasets.start(str(folder), OPTIONS)
    assert raised.value.problems[0].where == "data.folder"


def test_a_data_folder_that_cannot_be_made_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoraTrainError, match="cannot make a folder for what is prepared"):
        Service(StandaloneHost(tmp_path / "file" / "data")).datasets.start(str(folder), OPTIONS)


def test_not_while_a_training_reads_its_pictures(
    folder: Path, tmp_path: Path, host: StandaloneHost, make_config: Callable[..., RunConfig]
) -> None:
    from lora_train.runs.folder import RunFolder

    service = Service(host)
    run = RunFolder.create(service.runs_dir, make_config())
    with RunLock(run.path), pytest.raises(LoraTrainError, match="preparing its pictures"):
        service.datasets.start(str(folder), OPTIONS)


def test_a_dataset_outside_what_may_be_read_is_not_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: StandaloneHost
) -> None:
    datasets = Service(host).datasets
    id = prepared(datasets, folder).id
    assert [one.id for one in datasets.all()] == [id]
    monkeypatch.setattr(StandaloneHost, "may_read", lambda self, path: path != folder)
    assert datasets.all() == []
    with pytest.raises(Unknown):
        datasets.get(id)
    with pytest.raises(LoraTrainError, match="outside the folders"):
        datasets.start(str(folder), OPTIONS)
