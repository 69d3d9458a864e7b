"""What several tests need: the shipped base model, small folders of pictures, short runs."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# bits are compared, and other processes are started: all with one thread; those that spin while they wait starve others
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from lora_train.config import (
    DataOptions,
    ModelOptions,
    NetworkOptions,
    PreviewOptions,
    RunConfig,
    SaveOptions,
    TrainOptions,
)
from lora_train.demo.files import base_folder
from lora_train.hosts.standalone import StandaloneHost

# what the person who runs the tests has set for their own use: a captioner, a folder, leave to download
for name in [name for name in os.environ if name.startswith("LORA_TRAIN_")]:
    del os.environ[name]

# no test asserts a time, hypothesis' own deadline of 200 ms included
hypothesis.settings.register_profile("lora-train", deadline=None)
hypothesis.settings.load_profile("lora-train")

# import no torch and start hardly a process: together they take seconds, and say whether the others are worth minutes
FAST = (
    "captions/test_store.py",
    "cli/test_flags.py",
    "cli/test_network.py",
    "config/test_config.py",
    "config/test_document.py",
    "config/test_files.py",
    "config/test_idle.py",
    "config/test_presets.py",
    "config/test_registered.py",
    "config/test_schema.py",
    "config/test_table.py",
    "config/test_wording.py",
    "data/formats/",
    "data/test_buckets.py",
    "data/test_exchange.py",
    "data/test_matching.py",
    "data/test_scan.py",
    "data/test_shards.py",
    "data/test_sources.py",
    "data/test_tag_statistics.py",
    "lorafile/test_metadata.py",
    "lorafile/test_sidecar.py",
    "pictures/test_caption_reading.py",
    "pictures/test_finding.py",
    "pictures/test_plain.py",
    "pictures/test_tags_and_template.py",
    "pictures/test_texts.py",
    "prompt/test_syntax.py",
    "prompt/test_words.py",
    "runs/test_folder.py",
    "test_architecture.py",
    "test_atomic.py",
    "test_jsons.py",
)


def _in_tests(path: Path) -> str:
    return path.relative_to(Path(__file__).parent).as_posix()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast` the other files are not even imported, which alone takes longer."""
    if config.option.markexpr != "fast" or not collection_path.is_relative_to(Path(__file__).parent):
        return None
    name = _in_tests(collection_path)
    if collection_path.is_dir():
        return None if name == "." or any(f"{one}/".startswith(f"{name}/") for one in FAST) else True
    return None if name.startswith(FAST) or name.endswith("__init__.py") else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the fast ones."""
    for item in items:
        inside = item.path.is_relative_to(Path(__file__).parent)
        if inside and _in_tests(item.path).startswith(FAST) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)


@pytest.fixture(scope="session")
def base() -> Path:
    """The tiny base model that ships with the package."""
    return base_folder()


def draw_pictures(folder: Path, count: int = 4, sizes: tuple[tuple[int, int], ...] = ((128, 128),)) -> Path:
    """Write `count` pictures with captions into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for number in range(count):
        colour = tuple(rng.randrange(256) for _ in range(3))
        picture = Image.new("RGB", sizes[number % len(sizes)], colour)
        picture.paste((255, 255, 255), (20, 20, 60, 60))
        picture.save(folder / f"picture-{number}.png")
        (folder / f"picture-{number}.txt").write_text(f"sks on colour {number}", encoding="utf-8")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four square pictures with captions."""
    return draw_pictures(tmp_path / "pictures")


@pytest.fixture
def host(tmp_path: Path) -> StandaloneHost:
    """A host that keeps everything below the test's own folder."""
    return StandaloneHost(tmp_path / "data")


@pytest.fixture
def make_config(base: Path, pictures: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """A short run; groups of options can be given by keyword ("train={...}").

    What is chosen for small bases is set as for others: these runs are short."""

    usual: dict[str, Any] = {"max_train_steps": 3, "device": "cpu", "learning_rate": 1e-4, "preserve": 0.0}

    data: dict[str, Any] = {"folder": str(pictures), "tag": "sks", "train_batch_size": 2}

    def make(**groups: dict[str, Any]) -> RunConfig:
        return RunConfig(
            model=ModelOptions(**{"path": str(base)} | groups.get("model", {})),
            data=DataOptions(**data | groups.get("data", {})),
            network=NetworkOptions(**{"network_dim": 4, "network_alpha": 2, "conv_dim": 0} | groups.get("network", {})),
            train=TrainOptions(**usual | groups.get("train", {})),
            save=SaveOptions(**{"output_name": "sara", "output_dir": str(tmp_path / "loras")} | groups.get("save", {})),
            preview=PreviewOptions(**groups.get("preview", {})),
        )

    return make
