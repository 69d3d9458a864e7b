"""A captioner from outside (`colours.py`) writes the captions of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lora_train.cli import build_parser
from lora_train.cli.train import config_of
from lora_train.config import RunConfig
from lora_train.config.extending import unregister
from lora_train.config.table import CHOICES
from lora_train.data.scan import scan
from lora_train.datasets.captioning import captioning_problems
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.execute import run_training
from lora_train.runs.preparing import work_folder
from lora_train.runs.stages import Stages
from tests.extending import colours

LINE = "--process original,resize,interrogate --captioner colours --tagger none --colours-word rather"


@pytest.fixture
def there() -> Iterator[None]:
    colours.add()
    yield
    unregister(*colours.ADDED)


@pytest.mark.usefixtures("there")
def test_it_captions_the_pictures_of_a_run(
    make_config: Callable[..., RunConfig], host: StandaloneHost, tmp_path: Path
) -> None:
    folder = tmp_path / "coloured"
    folder.mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (128, 128), name).save(folder / f"{name}.png")
    config = config_of(build_parser().parse_args(["train", *LINE.split()]), "", "")
    prepare = replace(config.prepare, target=128)
    run = replace(make_config(data={"folder": str(folder), "tag": "sks"}), prepare=replace(prepare, workers=1))
    run_training(run, host, stages=Stages(latents=False, train=False))
    work = work_folder(folder, host)
    captions = {one.path.stem: one.caption for one in scan(work / "pictures", "").pictures}
    assert sorted(caption.rpartition(", ")[2] for caption in captions.values()) == [
        "rather blue",
        "rather green",
        "rather red",
    ]


@pytest.mark.usefixtures("there")
def test_what_it_lacks_is_said_before_the_start(host: StandaloneHost) -> None:
    line = [*LINE.split(), "--colours-word", ""]
    config = config_of(build_parser().parse_args(["train", *line]), "", "")
    assert [str(one) for one in captioning_problems(config.prepare, host)] == [
        "prepare.colours_word: there is no word. Give one."
    ]


def test_nothing_is_left_after_it() -> None:
    assert "colours" not in CHOICES["prepare.captioner"]
    assert build_parser().parse(["train", "--captioner", "colours"])[1][0].where == "--captioner"
