"""A small fake of a WebUI's `modules.*`, written from its documented behaviour (AUTOMATIC1111 1.10.1).

Models are real torch modules, so that what is freed and what comes back can be looked at.
"""

from __future__ import annotations

import collections
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn


class FIFOLock:
    """First come, first served, as the WebUI's."""

    def __init__(self) -> None:
        self._lock, self._inner = threading.Lock(), threading.Lock()
        self._pending: collections.deque[threading.Event] = collections.deque()

    def acquire(self, blocking: bool = True) -> bool:
        with self._inner:
            if self._lock.acquire(False):
                return True
            if not blocking:
                return False
            event = threading.Event()
            self._pending.append(event)
        event.wait()
        return self._lock.acquire()

    def release(self) -> None:
        with self._inner:
            if self._pending:
                self._pending.popleft().set()
            self._lock.release()

    __enter__ = acquire

    def __exit__(self, *_error: object) -> None:
        self.release()


class FakeModel(nn.Module):
    """A checkpoint in memory."""

    def __init__(self, filename: str, lowvram: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.lowvram = lowvram
        self.sd_checkpoint_info = SimpleNamespace(filename=filename, title=Path(filename).name)


class State:
    """`shared.state`, what is used of it."""

    def __init__(self) -> None:
        self.job, self.interrupted, self.current_latent = "", False, torch.ones(1)
        self.job_count = self.job_no = self.sampling_step = self.sampling_steps = 0
        self.textinfo: str | None = None

    def begin(self, job: str = "") -> None:
        self.job, self.interrupted = job, False

    def end(self) -> None:
        self.job = ""


class Interrogator:
    """BLIP."""

    def __init__(self) -> None:
        self.blip_model: nn.Module | None = None
        self.clip_model: nn.Module | None = None
        self.loads = 0

    def load(self) -> None:
        self.loads += 1
        self.blip_model = self.blip_model or nn.Linear(2, 2)

    def generate_caption(self, picture: Image.Image) -> str:
        assert self.blip_model is not None
        return f"a picture of {picture.width} pixels"


class Restorer:
    def __init__(self, has_weights: bool = True) -> None:
        self.net: nn.Module | None = None
        self.face_helper = "large"
        self._has_weights = has_weights

    def name(self) -> str:
        return "CodeFormer"

    def restore(self, picture: np.ndarray, w: float | None = None) -> np.ndarray:
        if self._has_weights:
            self.net = self.net or nn.Linear(2, 2)
            return (picture * w).astype(np.uint8)
        return picture


class Fake:
    """The modules, installed into `sys.modules` for one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self.folder = folder
        checkpoint = folder / "models" / "one.safetensors"
        self.loads: list[str] = []
        self.data = SimpleNamespace(sd_model=None, loaded_sd_models=[], was_loaded_at_least_once=False)
        self.options = SimpleNamespace(sd_model_checkpoint="one.safetensors", data={})
        self.commands = SimpleNamespace(lora_dir=str(folder / "models" / "Lora"))
        self.info = SimpleNamespace(filename=str(checkpoint), title="one.safetensors")
        self.module("modules")
        self.call_queue = self.module("modules.call_queue", queue_lock=FIFOLock())
        self.state, self.interrogator = State(), Interrogator()
        upscaler = SimpleNamespace(upscale=lambda p, f, _path: p.resize((int(p.width * f), int(p.height * f))))
        self.shared = self.module(
            "modules.shared",
            opts=self.options,
            cmd_opts=self.commands,
            state=self.state,
            interrogator=self.interrogator,
            face_restorers=[Restorer()],
            sd_upscalers=[SimpleNamespace(name="Lanczos", scaler=upscaler, data_path=None)],
        )
        self.deepbooru = self.module("modules.deepbooru", model=_deepbooru())
        self.module("modules.devices", cpu=torch.device("cpu"), torch_gc=lambda: None)
        self.lowvram = self.module("modules.lowvram", module_in_gpu=None, send_everything_to_cpu=self._lowvram_off)
        self.module("modules.paths", models_path=str(folder / "models"))
        self.module(
            "modules.paths_internal",
            data_path=str(folder),
            models_path=str(folder / "models"),
            script_path=str(folder),
        )
        self.progress = self.module("modules.progress", current_task=None)
        self.progress.start_task = lambda task: setattr(self.progress, "current_task", task)
        self.progress.finish_task = lambda _task: setattr(self.progress, "current_task", None)
        cached = {"cached_c": [None, 1], "cached_uc": [None, 1]}
        processing = type("StableDiffusionProcessing", (), dict(cached))
        text = type("StableDiffusionProcessingTxt2Img", (processing,), {"cached_hr_c": [1, 1]})
        self.processing = self.module(
            "modules.processing", StableDiffusionProcessing=processing, StableDiffusionProcessingTxt2Img=text
        )
        self.sd_models = self.module(
            "modules.sd_models",
            model_data=self.data,
            checkpoints_list={"one": self.info},
            checkpoint_aliases={"one.safetensors": self.info},
            checkpoints_loaded={"old": 1},
            send_model_to_trash=lambda model: model.to("meta"),
            send_model_to_device=lambda model: self.loads.append("device"),
            load_model=self.load_model,
        )

    def module(self, name: str, **content: Any) -> Any:
        made = ModuleType(name)
        made.__dict__.update(content)
        made.__path__ = []
        self._monkeypatch.setitem(sys.modules, name, made)
        if "." in name:
            parent, child = name.rsplit(".", 1)
            setattr(sys.modules[parent], child, made)
        return made

    def load_model(self, info: Any = None) -> Any:
        self.loads.append(Path(info.filename).name)
        model = FakeModel(info.filename)
        self.data.sd_model = model
        self.data.loaded_sd_models.insert(0, model)
        self.data.was_loaded_at_least_once = True
        return model

    def _lowvram_off(self) -> None:
        self.lowvram.module_in_gpu = None


def _deepbooru() -> Any:
    tagger = SimpleNamespace(model=None, starts=0)

    def start() -> None:
        tagger.starts += 1
        tagger.model = tagger.model or nn.Linear(2, 2)

    tagger.start = start
    tagger.tag_multi = lambda picture, _plain=False: "1girl, solo"
    return tagger
