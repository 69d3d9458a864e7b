"""What a run's writer asks of the sampler and says of the run, by stand-ins for model and trainer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from PIL import Image

from lora_train.config import DataOptions, ModelOptions, PreviewOptions, RunConfig
from lora_train.data.scan import scan
from lora_train.models import sampling
from lora_train.runs.folder import RunFolder
from lora_train.runs.writer import RunWriter

Make = Callable[..., RunConfig]
PREVIEW = PreviewOptions(prompts=("sks on blue", "sks on red"), steps=7, guidance=3.5, seed=99)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[sampling.Request]:
    """What the sampler is asked for; it makes a picture of one colour."""
    requests: list[sampling.Request] = []

    def sample(_model: Any, request: sampling.Request) -> list[Image.Image]:
        requests.append(request)
        return [Image.new("RGB", (8, 8), (len(requests), 0, 0))]

    monkeypatch.setattr(sampling, "sample", sample)
    return requests


class Shapes:
    """A training set of pictures with these buckets."""

    counts: ClassVar[dict[tuple[int, int], int]] = {(704, 704): 3}

    def bucket_counts(self) -> dict[tuple[int, int], int]:
        return self.counts


def writer(tmp_path: Path, pictures: Path, preview: PreviewOptions = PREVIEW) -> RunWriter:
    config = RunConfig(model=ModelOptions(clip_skip=2), data=DataOptions(resolution=704), preview=preview)
    trainer: Any = SimpleNamespace(
        config=config, model=SimpleNamespace(guidance=6.5), autocast=nullcontext(), dataset=Shapes()
    )
    return RunWriter(RunFolder.create(tmp_path / "runs", config), scan(pictures), trainer, 0.0)


def test_a_preview_is_asked_for_as_the_options_say(
    tmp_path: Path, pictures: Path, asked: list[sampling.Request]
) -> None:
    made = writer(tmp_path, pictures)
    made.preview(30)
    common = {
        "seeds": [99],
        "width": 704,
        "height": 704,
        "steps": 7,
        "guidance": 3.5,
        "clip_skip": 2,
        "sampler": "dpmsolver++",
    }
    assert asked == [sampling.Request(prompt, **common) for prompt in PREVIEW.prompts]  # type: ignore[arg-type]
    events = [event for event in made.folder.events() if event["kind"] == "preview"]
    assert [(event["step"], event["prompt"], event["file"]) for event in events] == [
        (30, "sks on blue", "step00000030-0.png"),
        (30, "sks on red", "step00000030-1.png"),
    ]
    for number, event in enumerate(events, 1):
        with Image.open(made.folder.path / "samples" / event["file"]) as picture:
            assert picture.getpixel((0, 0)) == (number, 0, 0)


@pytest.mark.parametrize(("guidance", "expected"), [(None, 6.5), (0.0, 0.0), (1.0, 1.0)])
def test_guidance_is_the_familys_only_where_none_is_given(
    tmp_path: Path, pictures: Path, asked: list[sampling.Request], guidance: float | None, expected: float
) -> None:
    writer(tmp_path, pictures, replace(PREVIEW, guidance=guidance)).preview(1)
    assert {request.guidance for request in asked} == {expected}


def test_one_preview_that_fails_is_noted_and_the_next_is_made(
    tmp_path: Path, pictures: Path, asked: list[sampling.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = sampling.sample

    def sample(model: Any, request: sampling.Request) -> list[Image.Image]:
        made = good(model, request)
        if "blue" in str(request.prompt):
            raise RuntimeError("CUDA out of memory")
        return made

    monkeypatch.setattr(sampling, "sample", sample)
    made = writer(tmp_path, pictures)
    made.preview(5)
    kinds = [(event["kind"], event.get("text", event.get("file"))) for event in made.folder.events()]
    assert kinds == [
        ("note", "The preview of step 5 was not made: there was not enough memory."),
        ("preview", "step00000005-1.png"),
    ]
