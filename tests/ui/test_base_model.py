"""The form's base model: the checkpoint that is in use, until a person chooses another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from lora_train.config import RunConfig
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.service import Service
from lora_train.ui.train_tab import Defaults, TrainTab


class Host(StandaloneHost):
    """One whose checkpoints change."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data")
        self.folder = folder
        self.listed = [folder / "one.safetensors"]
        self.current: Path | None = self.listed[0]

    def checkpoints(self) -> list[Path]:
        return self.listed

    def current_checkpoint(self) -> Path | None:
        return self.current

    def look_for_checkpoints(self) -> None:
        self.listed = sorted(self.folder.glob("*.safetensors"))


@pytest.fixture
def changing(tmp_path: Path) -> Host:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.safetensors").touch()
    return Host(tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bases of the runs that were started."""
    bases: list[str] = []

    def start(_service: Service, config: RunConfig, known: Any) -> str:
        bases.append(Path(config.model.path).stem)
        return "id"

    monkeypatch.setattr(Service, "start", start)
    return bases


@pytest.fixture
def tab(changing: Host) -> TrainTab:
    with gr.Blocks():
        return TrainTab(Service(changing), Defaults(str(changing.current), "folder", "sks"))


def train(tab: TrainTab, model: Any, followed: Any) -> str:
    """Press Train, with this in the field and this as what it follows."""
    given = {component: component.value for component in tab._fields.values()}
    return tab._start(given | {tab._fields["model.path"]: model, tab._fields["followed"]: followed})


def test_train_takes_the_checkpoint_in_use_even_where_the_page_has_not_followed(
    tab: TrainTab, changing: Host, started: list[str]
) -> None:
    one = str(changing.folder / "one.safetensors")
    changing.current = changing.folder / "two.safetensors"
    assert "Started on two.safetensors" in train(tab, one, one)
    assert "Started on two.safetensors" in train(tab, [one], one)  # as some versions of gradio give it
    train(tab, str(changing.folder / "three.safetensors"), one)  # chosen by a person
    assert started == ["two", "two", "three"]


def test_a_first_checkpoint_that_comes_later_is_taken(tab: TrainTab, changing: Host, started: list[str]) -> None:
    train(tab, None, "")
    assert started == ["one"]


def test_the_field_follows_until_a_person_chooses(tab: TrainTab, changing: Host) -> None:
    one, two = str(changing.folder / "one.safetensors"), str(changing.folder / "two.safetensors")
    changing.current = Path(two)
    shown, followed = tab._follow(one, one)
    assert shown["value"] == followed == two
    shown, followed = tab._follow(one, two)
    assert "value" not in shown and followed == two, "a person has chosen the first one again"
    assert tab._follow("", two)[0]["value"] == two


def test_refresh_lists_what_is_new_and_keeps_nothing_stale(tab: TrainTab, changing: Host) -> None:
    one, two = str(changing.folder / "one.safetensors"), str(changing.folder / "two.safetensors")
    changing.current = Path(two)
    shown, followed = tab._refresh(one, one)
    assert shown["value"] == followed == two and len(shown["choices"]) == 3
    shown, followed = tab._refresh(one, two)
    assert shown["value"] == one and followed == two
    Path(one).unlink()
    shown, followed = tab._refresh(one, two)
    assert shown["value"] == followed == two and len(shown["choices"]) == 2
    (changing.folder / "a folder").mkdir()
    assert tab._refresh(str(changing.folder / "a folder"), two)[0]["value"].endswith("a folder")  # typed
    assert tab._refresh("~nobody-here/x", two)[0]["value"] == two
