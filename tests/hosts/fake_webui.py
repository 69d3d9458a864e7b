"""A small fake of a WebUI's `modules.*`, written from its documented behaviour (AUTOMATIC1111 1.10.1).

Models are real torch modules, so that what is freed and what comes back can be looked at.
"""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn


class FIFOLock:
    """First come, first served, as the WebUI's. `waits` counts up whenever somebody begins to wait."""

    def __init__(self) -> None:
        self.waits = threading.Semaphore(0)
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
            self.waits.release()
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


class Options:
    """`shared.opts`: values in `data`, what is known of each setting in `data_labels`."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {"sd_model_checkpoint": "one.safetensors"}
        self.data_labels: dict[str, Any] = {
            "sd_model_checkpoint": SimpleNamespace(label="Stable Diffusion checkpoint", onchange=None)
        }

    if TYPE_CHECKING:  # tests give settings as attributes, beside `data`

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def set(self, key: str, value: Any) -> bool:
        """As the page's dropdown does it: put back where carrying it out fails."""
        before = self.data.get(key)
        self.data[key] = value
        try:
            self.data_labels[key].onchange()
        except Exception:
            self.data[key] = before
            return False
        return True


class SkipWritingToConfig:
    """See `modules.sd_models`."""

    skip = False

    def __enter__(self) -> None:
        SkipWritingToConfig.skip = True

    def __exit__(self, *_error: object) -> None:
        SkipWritingToConfig.skip = False


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
        self.calls: list[str] = []
        self.ended: list[Any] = []
        """What a fork's own functions were called for, and what `state.end` got; where a test notes it."""
        self.data: Any = SimpleNamespace(sd_model=None, loaded_sd_models=[], was_loaded_at_least_once=False)
        self.options = Options()
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
        self.options.data_labels["sd_model_checkpoint"].onchange = self._queued(self.reload_model_weights)
        self.module("modules.paths", models_path=str(folder / "models"))
        self.module(
            "modules.paths_internal",
            data_path=str(folder),
            models_path=str(folder / "models"),
            script_path=str(folder),
        )
        self.progress = self.module("modules.progress", current_task=None, pending_tasks={}, finished_tasks=[])
        self.progress.start_task = self._start_task
        self.progress.finish_task = self._finish_task
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
            SkipWritingToConfig=SkipWritingToConfig,
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

    def choose(self, info: Any) -> None:
        """Make a checkpoint known, and the chosen one."""
        self.sd_models.checkpoint_aliases[info.title] = info
        self.options.data["sd_model_checkpoint"] = info.title

    def load_model(self, info: Any = None) -> Any:
        info = info or self.sd_models.checkpoint_aliases[self.options.sd_model_checkpoint]
        self.loads.append(Path(info.filename).name)
        if not SkipWritingToConfig.skip:
            self.options.data["sd_model_checkpoint"] = info.title
        model = FakeModel(info.filename)
        self.data.sd_model = model
        self.data.loaded_sd_models.insert(0, model)
        self.data.was_loaded_at_least_once = True
        return model

    def reload_model_weights(self) -> None:
        info = self.sd_models.checkpoint_aliases[self.options.sd_model_checkpoint]
        model = self.data.sd_model
        if model is None or model.sd_checkpoint_info.filename != info.filename:
            self.load_model(info)

    def _queued(self, func: Callable[[], None]) -> Callable[[], None]:
        def wrap_queued_call(func: Callable[[], None]) -> Callable[[], None]:
            def f() -> None:
                with self.call_queue.queue_lock:
                    func()

            f.__qualname__ = "wrap_queued_call.<locals>.f"
            return f

        return wrap_queued_call(func)

    def picture(self, id_task: str, made: list[str]) -> None:
        """As `wrap_gradio_gpu_call` makes one: a task that waits for its turn in the queue."""
        self.progress.pending_tasks[id_task] = 0.0
        try:
            with self.call_queue.queue_lock:
                self.state.begin(job=id_task)
                self.progress.start_task(id_task)
                made.append(id_task)
                self.progress.finish_task(id_task)
                self.state.end()
        finally:
            self.state.interrupted, self.state.job, self.state.job_count = False, "", 0

    def _start_task(self, task: str) -> None:
        self.progress.current_task = task
        self.progress.pending_tasks.pop(task, None)

    def _finish_task(self, task: str) -> None:
        if self.progress.current_task == task:
            self.progress.current_task = None
        self.progress.finished_tasks.append(task)

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
