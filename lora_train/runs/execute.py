"""One run from its configuration to the LoRA file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.config import Facts, RunConfig, resolve
from lora_train.data.scan import Manifest
from lora_train.errors import LoraTrainError, Stopped
from lora_train.hosts.base import never
from lora_train.runs.check import check_run, output_path
from lora_train.runs.device import fast_bf16, pick_device
from lora_train.runs.folder import Event, RunFolder
from lora_train.runs.lock import RunLock
from lora_train.runs.memory import memory_given_back
from lora_train.runs.preparing import find_masks, note_buckets, prepare_pictures, prepared_before
from lora_train.runs.stages import Result, Stages
from lora_train.runs.writer import RunWriter

if TYPE_CHECKING:
    from lora_train.data.dataset import Dataset
    from lora_train.hosts.base import Host
    from lora_train.models.base import BaseModel
    from lora_train.train.loop import Trainer

log = logging.getLogger("lora_train")


def run_training(
    config: RunConfig,
    host: Host | None = None,
    listener: Callable[[Event], None] | None = None,
    stopped: Callable[[], bool] = never,
    stages: Stages = Stages(),
) -> Result:
    """Check, prepare and train. The Python API's main function.

    `listener` hears the run's events; `stopped` is asked between steps, and when it says yes the
    LoRA so far is saved. Raises LoraTrainError; the run's folder then says "failed" and why.
    """
    host = host or _standalone()
    manifest = check_run(config, host, stages)
    folder = RunFolder.create(host.data_dir() / "runs", config, listener)
    return execute(folder, config, manifest, host, stopped, stages)


def resume_training(folder: RunFolder, host: Host | None = None, stopped: Callable[[], bool] = never) -> Result:
    """Go on with a run that was stopped, killed or failed, from its last saved state.

    Raises LoraTrainError when there is nothing to resume, or what it depends on is gone.
    """
    host = host or _standalone()
    config, manifest = check_resume(folder, host)
    return execute(folder, config, manifest, host, stopped, Stages())


def check_resume(folder: RunFolder, host: Host) -> tuple[RunConfig, Manifest]:
    """What `resume_training` needs, checked. Raises LoraTrainError."""
    if not folder.state_path.is_file():
        raise LoraTrainError("this run has no saved state to go on from.", folder.id, "Start it anew.")
    content = folder.read()
    if content.get("state") == "finished":
        raise LoraTrainError("this run is finished.", folder.id, "Start a new one.")
    config = RunConfig.from_dict(content.get("config", {}))
    return config, check_run(config, host, own_output=_own_result(folder))


def _own_result(folder: RunFolder) -> Path | None:
    """The LoRA that this run itself wrote when it was stopped before, unless another has its name now."""
    from lora_train.lorafile.metadata import session_of

    result = folder.read().get("result")
    return Path(result) if result and session_of(Path(result)) == folder.id else None


def _standalone() -> Host:
    from lora_train.hosts.standalone import StandaloneHost

    return StandaloneHost()


def execute(
    folder: RunFolder,
    config: RunConfig,
    manifest: Manifest,
    host: Host,
    stopped: Callable[[], bool],
    stages: Stages,
) -> Result:
    """A checked run in its folder; every way it can end is written there."""
    with RunLock(folder.path):
        result = _execute(_Execution(folder, config, manifest, host, stopped, stages))
    host.refresh_loras(result.path)
    return result


def _execute(run: _Execution) -> Result:
    folder = run.folder
    try:
        run.prepare_pictures()
        return run.with_the_gpu()
    except Stopped:
        folder.set_state("stopped", finished=time.time())
        return Result(None, 0, True, folder.path)
    except LoraTrainError as error:
        _failed(folder, error)
        raise
    except MemoryError as error:
        _failed(folder, _memory_error())
        raise _memory_error() from error
    except Exception as error:
        log.exception("the run %s failed", folder.id)
        wrapped = _unexpected(error, folder)
        _failed(folder, wrapped)
        raise wrapped from error


def _failed(folder: RunFolder, error: LoraTrainError) -> None:
    told = [problem.to_dict() for problem in error.problems]
    try:
        folder.set_state("failed", finished=time.time(), problems=told)
        folder.event("error", problems=told)
    except (LoraTrainError, OSError):
        log.exception("cannot note that the run %s failed", folder.id)


def _memory_error() -> LoraTrainError:
    return LoraTrainError(
        "there is not enough memory.", "train", "Lower the batch size or the resolution, or close other programs."
    )


def _unexpected(error: Exception, folder: RunFolder) -> LoraTrainError:
    if "out of memory" in str(error).lower():
        return _memory_error()
    return LoraTrainError(
        f"something went wrong that should not have: {type(error).__name__}: {error}.",
        str(folder.path),
        "The log has the details; please report it with them.",
    )


@dataclass
class _Execution:
    folder: RunFolder
    config: RunConfig
    manifest: Manifest
    host: Host
    stopped: Callable[[], bool]
    stages: Stages

    def prepare_pictures(self) -> None:
        """The operations on the pictures, if any are asked for, with the host's models still loaded."""
        if not self.config.prepare.operations:
            return
        if self.stages.process:
            self.manifest = prepare_pictures(self.folder, self.config, self.host, self.stopped)
        else:
            self.manifest = prepared_before(self.config, self.host)

    def with_the_gpu(self) -> Result:
        """All that needs the device, lent by the host."""

        def note(text: str) -> None:
            self.folder.event("note", text=text)

        if self.stages.shutdown:
            self.host.shutdown()
            note("The WebUI was told to stop.")
        with self.host.lend_gpu(self.stopped, note), memory_given_back():
            return self.run()

    def run(self) -> Result:
        from lora_train.models.opening import assumed_by, open_model

        self.started = time.time()
        for rejected in self.manifest.rejected:
            self.folder.event("rejected", file=rejected.path.name, reason=rejected.reason)
        for text in (*self.manifest.notes, f"Found {self.manifest.summary()}."):
            self.folder.event("note", text=text)
        find_masks(self.folder, self.config, self.manifest)
        if not (self.stages.train or self.stages.latents):
            return self._prepared_only()
        self.folder.event("note", text=f"Loading the base model {Path(self.config.model.path).name} ...")
        path = Path(self.config.model.path).expanduser()
        model = open_model(path, self.host.tokenizers, assumed_by(self.config), keep_dtype=True)
        for text in model.notes:
            self.folder.event("note", text=text)
        config = self._choose(model)
        dataset = self._prepare(model, config)
        if not self.stages.train:
            return self._prepared_only()
        return self._train(model, config, dataset)

    def _prepared_only(self) -> Result:
        self.folder.set_state("finished", finished=time.time(), result=None)
        return Result(None, 0, False, self.folder.path)

    def _choose(self, model: BaseModel) -> RunConfig:
        """Fill in the automatic choices, and say so; a resumed run keeps what was chosen at first."""
        resolved = self.folder.read().get("resolved")
        if resolved is not None and self.folder.state_path.is_file():
            return RunConfig.from_dict(resolved)
        from lora_train.data.dataset import count_epoch

        facts = Facts(
            pictures=len(self.manifest.pictures),
            native_resolution=model.native_resolution,
            device=pick_device(self.config.train.device),
            fast_bf16=fast_bf16(),
            epoch=lambda data: count_epoch(self.manifest.pictures, data, model.size_step),
        )
        config, choices = resolve(self.config, facts)
        self.folder.update(resolved=config.to_dict(), choices=[asdict(choice) for choice in choices])
        self.folder.event("choices", choices=[asdict(choice) for choice in choices])
        return config

    def _prepare(self, model: BaseModel, config: RunConfig) -> Dataset:
        import torch

        from lora_train.data.cache import LatentCache
        from lora_train.data.dataset import build_dataset
        from lora_train.data.remarks import remarks

        def progress(done: int, total: int) -> None:
            self.folder.event("prepare", stage="latents", done=done, total=total)
            self.host.report_progress(self.folder.id, done, total, "Preparing latents")
            if self.stopped():
                raise Stopped

        model.vae_to(torch.device(config.train.device))
        known, cache = len(self.manifest.rejected), LatentCache(self.host.data_dir() / "cache" / "latents")
        may_encode = self.stages.process and self.stages.latents
        dataset = build_dataset(
            self.manifest, config.data, model, cache, model.size_step, progress, may_encode=may_encode
        )
        cache.prune(int(self.host.settings()["cache_gb"] * 1e9), set(dataset.latents))
        if dataset.from_npz:
            text = f"{dataset.from_npz} pictures' latents come from sd-scripts' .npz files."
            self.folder.event("note", text=text)
        for text in (*dataset.notes, *remarks(dataset, config.data.train_batch_size)):
            self.folder.event("note", text=text)
        if self.config.prepare.operations:
            note_buckets(self.folder, self.config, self.host, dataset)
        for rejected in self.manifest.rejected[known:]:
            self.folder.event("rejected", file=rejected.path.name, reason=rejected.reason)
        return dataset

    def _train(self, model: BaseModel, config: RunConfig, dataset: Dataset) -> Result:
        from lora_train.train.loop import Callbacks, StepReport, Trainer

        def report(step: StepReport) -> None:
            self.folder.event("step", **_rounded(asdict(step)))
            self.host.report_progress(self.folder.id, step.step, step.of, f"Training, loss {step.smoothed:.4f}")

        def save(step: int) -> None:
            writer.save_checkpoint(step)

        def preview(step: int) -> None:
            writer.preview(step)

        def state(_step: int) -> None:
            try:
                trainer.write_state(self.folder.state_path)
            except LoraTrainError as error:  # the training itself can go on without
                self.folder.event("note", text=f"The state for a resume was not saved: {error}")

        trainer = Trainer(config, model, dataset, Callbacks(report, save, state, preview, self.stopped))
        writer = RunWriter(self.folder, self.manifest, trainer, self.started)
        self._go_on(trainer)
        self.folder.set_state("training", steps=config.train.max_train_steps)
        steps = trainer.run()
        if steps == 0:
            raise Stopped
        path, stopped = output_path(config), steps < (config.train.max_train_steps or 0)
        own = _own_result(self.folder) == path
        writer.save_result(path, overwrite=config.save.overwrite or own)
        if not stopped:
            preview(steps)
        trainer.network.detach()
        writer.write_card(path)
        self.folder.set_state(
            "stopped" if stopped else "finished", finished=time.time(), result=str(path), steps_done=steps
        )
        if not stopped:
            self.folder.state_path.unlink(missing_ok=True)
        return Result(path, steps, stopped, self.folder.path)

    def _go_on(self, trainer: Trainer) -> None:
        """Take up the saved state, if this run has one."""
        if not self.folder.state_path.is_file():
            return
        same = trainer.read_state(self.folder.state_path)
        self.folder.event("resumed", step=trainer.steps_done)
        self.folder.event("note", text=f"Going on after step {trainer.steps_done}.")
        if not same:
            self.folder.event("note", text="The pictures or captions have changed meanwhile; the new ones are used.")


def _rounded(report: dict[str, Any]) -> dict[str, Any]:
    """Shorter numbers for the event log."""
    out: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, float):
            value = float(f"{value:.6g}")
        out[name] = value
    return out
