"""Which check leaves out too much, and that its button lets the pictures pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from lora_train.config import PrepareOptions
from lora_train.datasets.loosen import advice
from lora_train.demo.files import pictures_folder
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.service import Service
from lora_train.ui.dataset_tab import ON


def _prepare(host: StandaloneHost, folder: Path, **options: Any) -> tuple[Any, str]:
    datasets = Service(host).datasets
    id = datasets.start(str(folder), PrepareOptions(**{"workers": 1} | options))
    assert datasets.wait(60)
    return datasets, id


def test_what_is_on_at_first_keeps_flat_drawings(host: StandaloneHost, tmp_path: Path) -> None:
    datasets, id = _prepare(host, pictures_folder(), operations=ON, min_size=0)
    counts = datasets.get(id).counts()
    assert counts["kept"] >= 0.9 * counts["all"] and "range" not in counts["rules"]
    folder = tmp_path / "drawings"
    folder.mkdir()
    for number, ink in enumerate(("black", "navy", "red")):
        drawn = Image.new("RGB", (640, 640), "white")
        ImageDraw.Draw(drawn).ellipse((60 * number, 100, 300 + 90 * number, 500), outline=ink, width=6)
        drawn.save(folder / f"{number}.png")
    datasets, id = _prepare(host, folder, operations=ON)
    assert "range" not in datasets.get(id).counts()["rules"]


def test_each_check_that_leaves_out_much_is_named_and_loosened(host: StandaloneHost) -> None:
    datasets, id = _prepare(host, pictures_folder(), operations=("original", "range", "resize"))
    (small,) = datasets.status(id)["advice"]
    assert small["text"] == "The minimum size leaves out 16 of 16 pictures."
    assert small["button"] == "Lower the minimum size to 128 pixels"
    datasets.loosen(id, "too small")
    assert datasets.wait(60)
    (light,) = datasets.status(id)["advice"]
    assert light["rule"] == "range" and light["text"] == "The light check leaves out 16 of 16 pictures."
    assert light["button"].startswith("Lower the lowest light score from 0.15 to 0.0")
    datasets.loosen(id, "range")
    assert datasets.wait(60)
    assert datasets.get(id).counts()["kept"] == 16 and datasets.status(id)["advice"] == []
    with pytest.raises(LoraTrainError, match="nothing to loosen"):
        datasets.loosen(id, "range")


def _line(rule: str, **more: Any) -> dict[str, Any]:
    return {"outcome": "rejected" if rule else "kept", "rule": rule, "scores": {}, "size": [100, 80]} | more


def test_a_limit_moves_just_so_far_that_all_pass() -> None:
    lines = [_line("blur", scores={"blur": score}) for score in (1.9, 2.0, 2.345678)]
    (blur,) = advice(lines, PrepareOptions(operations=("blur",)))
    assert blur.options.max_blur == 2.35 and blur.button == "Raise the highest blur score from 1.8 to 2.35"
    twins = [_line("similar", scores={"similar": 1.0}), _line("similar", scores={"similar": 0.91})]
    (similar,) = advice(twins, PrepareOptions(operations=("similar",)))
    assert similar.options.max_similarity == 1.0
    (light,) = advice([_line("range", scores={"range": 0.0})], PrepareOptions(operations=("range",)))
    assert light.options.min_range == 0.0


def test_no_advice_where_most_are_kept_or_nothing_can_be_loosened() -> None:
    options = PrepareOptions(operations=("face", "range"))
    assert advice([_line(""), _line("range", scores={"range": 0.1})], options) == []
    assert advice([_line("not a picture"), _line("left out by you")], options) == []
    (whole,) = advice([_line("no face"), _line("no face")], options)
    assert whole.options.operations == ("original", "face", "range")
    assert advice([_line("no face")], PrepareOptions(operations=("original", "face"))) == []
