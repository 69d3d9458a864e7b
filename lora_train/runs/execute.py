"""One run from its configuration to the LoRA file."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.config import Facts, RunConfig, problems, resolve
from lora_train.data.scan import Manifest, scan, tag_frequency
from lora_train.errors import LoraTrainError, Problem, Stopped
from lora_train.runs.folder import Event, RunFolder

if TYPE_CHECKING:
    from lora_train.data.dataset import Dataset
    from lora_train.hosts.base import Host
    from lora_train.models.base import BaseModel
    from lora_train.train.loop import Trainer

log = logging.getLogger("lora_train")

CHECKPOINT_NAME = "{name}-step{step:08d}.safetensors"
"""kohya's pattern for intermediate files."""


@dataclass(frozen=True)
class Stages:
    """Which parts of a run are done: `process` prepares pictures and latents, `train` trains."""

    process: bool = True
    train: bool = True


@dataclass(frozen=True)
class Result:
    """How a run ended. `path` is the LoRA, None when nothing was trained."""

    path: Path | None
    steps: int
    stopped: bool
    folder: Path


def output_path(config: RunConfig) -> Path:
    """Where the LoRA goes."""
    return Path(config.save.output_dir).expanduser() / f"{config.save.output_name}.safetensors"


def check_run(config: RunConfig, stages: Stages = Stages()) -> Manifest:
    """Look at everything a run depends on and raise one LoraTrainError with all problems.

    Writes nothing. Returns the scanned pictures.
    """
    from lora_train.models.opening import recognise

    found = [p for p in problems(config) if stages.train or not p.where.startswith("save.")]
    manifest = None
    if config.data.folder:
        try:
            manifest = scan(Path(config.data.folder).expanduser(), config.data.tag, config.data.repeats or 10)
        except LoraTrainError as error:
            found += error.problems
    if config.model.path:
        try:
            recognise(Path(config.model.path).expanduser())
        except LoraTrainError as error:
            found += error.problems
    if stages.train and config.save.output_name and config.save.output_dir:
        found += _output_problems(config)
    if found or manifest is None:
        raise LoraTrainError.of(found)
    return manifest


def _output_problems(config: RunConfig) -> list[Problem]:
    path, folder = output_path(config), Path(config.save.output_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        return [Problem("this is a file, not a folder.", str(folder), "Give a folder for --dir (save.output_dir).")]
    if path.exists() and not config.save.overwrite:
        return [Problem("this LoRA exists already.", str(path), "Choose another name, or add --overwrite.")]
    return []


def run_training(
    config: RunConfig,
    host: Host | None = None,
    listener: Callable[[Event], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    stages: Stages = Stages(),
) -> Result:
    """Check, prepare and train. The Python API's main function.

    `listener` hears the run's events; `stopped` is asked between steps, and when it says yes the
    LoRA so far is saved. Raises LoraTrainError; the run's folder then says "failed" and why.
    """
    if host is None:
        from lora_train.hosts.standalone import StandaloneHost

        host = StandaloneHost()
    manifest = check_run(config, stages)
    folder = RunFolder.create(host.data_dir() / "runs", config, listener)
    return execute(folder, config, manifest, host, stopped, stages)


def execute(
    folder: RunFolder,
    config: RunConfig,
    manifest: Manifest,
    host: Host,
    stopped: Callable[[], bool],
    stages: Stages,
) -> Result:
    """A checked run in its folder; every way it can end is written there."""
    try:
        with host.lend_gpu():
            result = _Execution(folder, config, manifest, host, stopped, stages).run()
    except Stopped:
        folder.set_state("stopped", finished=time.time(), result=None)
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
    host.refresh_loras()
    return result


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

    def run(self) -> Result:
        from lora_train.models.opening import open_model

        self.started = time.time()
        for rejected in self.manifest.rejected:
            self.folder.event("rejected", file=rejected.path.name, reason=rejected.reason)
        self.folder.event("note", text=f"Found {self.manifest.summary()}.")
        self.folder.event("note", text=f"Loading the base model {Path(self.config.model.path).name} ...")
        model = open_model(Path(self.config.model.path).expanduser())
        config = self._choose(model)
        dataset = self._prepare(model, config)
        if not self.stages.train:
            self.folder.set_state("finished", finished=time.time(), result=None)
            return Result(None, 0, False, self.folder.path)
        return self._train(model, config, dataset)

    def _choose(self, model: BaseModel) -> RunConfig:
        """Fill in the automatic choices, and say so."""
        facts = Facts(
            pictures=len(self.manifest.pictures),
            native_resolution=model.native_resolution,
            device=pick_device(self.config.train.device),
            fast_bf16=_fast_bf16(),
        )
        config, choices = resolve(self.config, facts)
        self.folder.update(resolved=config.to_dict(), choices=[asdict(choice) for choice in choices])
        self.folder.event("choices", choices=[asdict(choice) for choice in choices])
        return config

    def _prepare(self, model: BaseModel, config: RunConfig) -> Dataset:
        import torch

        from lora_train.data.cache import LatentCache
        from lora_train.data.dataset import build_dataset

        def progress(done: int, total: int) -> None:
            self.folder.event("prepare", done=done, total=total)
            if self.stopped():
                raise Stopped

        model.to(torch.device(config.train.device), torch.float32)
        known = len(self.manifest.rejected)
        dataset = build_dataset(
            self.manifest,
            config.data,
            model,
            LatentCache(self.host.data_dir() / "cache" / "latents"),
            model.size_step,
            progress,
            may_encode=self.stages.process,
        )
        for rejected in self.manifest.rejected[known:]:
            self.folder.event("rejected", file=rejected.path.name, reason=rejected.reason)
        return dataset

    def _train(self, model: BaseModel, config: RunConfig, dataset: Dataset) -> Result:
        from lora_train.train.loop import Callbacks, StepReport, Trainer

        def report(step: StepReport) -> None:
            self.folder.event("step", **_rounded(asdict(step)))

        def save(step: int) -> None:
            name = CHECKPOINT_NAME.format(name=config.save.output_name, step=step)
            path = self.folder.path / "checkpoints" / name
            self._save(path, trainer, overwrite=True)

        def preview(step: int) -> None:
            self._preview(step, trainer)

        trainer = Trainer(config, model, dataset, Callbacks(report, save, preview, self.stopped))
        self.folder.set_state("training", steps=config.train.max_train_steps)
        steps = trainer.run()
        if steps == 0:
            raise Stopped
        path = output_path(config)
        stopped = steps < (config.train.max_train_steps or 0)
        self._save(path, trainer, overwrite=config.save.overwrite)
        if not stopped:
            preview(steps)
        trainer.network.detach()
        self.folder.set_state(
            "stopped" if stopped else "finished", finished=time.time(), result=str(path), steps_done=steps
        )
        return Result(path, steps, stopped, self.folder.path)

    def _save(self, path: Path, trainer: Trainer, overwrite: bool) -> None:
        from lora_train.lorafile.metadata import lora_metadata
        from lora_train.lorafile.writing import write_lora

        metadata = lora_metadata(self._facts(trainer))
        write_lora(path, trainer.network.file_tensors(), metadata, trainer.config.save.save_precision, overwrite)
        self.folder.event("saved", step=trainer.steps_done, path=str(path))

    def _facts(self, trainer: Trainer) -> Any:
        from lora_train.lorafile.metadata import TrainingFacts, base_hashes

        if not hasattr(self, "_base_hashes"):
            self._base_hashes = base_hashes(trainer.model.source)
        folders: Counter[tuple[str, int]] = Counter()
        for item in trainer.dataset.items:
            folders[(item.picture.path.parent.name, item.picture.repeats)] += 1
        return TrainingFacts(
            config=trainer.config,
            steps=trainer.steps_done,
            epoch=trainer.epoch,
            batches_per_epoch=trainer.batches_per_epoch,
            pictures=len(trainer.dataset.items),
            looks_per_epoch=self.manifest.looks_per_epoch,
            buckets=trainer.dataset.bucket_counts(),
            folders={name: (repeats, count) for (name, repeats), count in folders.items()},
            tag_frequency=tag_frequency(self.manifest),
            base_version=trainer.model.version,
            architecture=trainer.model.architecture,
            prediction_type=trainer.model.prediction_type,
            base_name=trainer.model.source.name,
            base_hashes=self._base_hashes,
            started_at=self.started,
            finished_at=time.time(),
            session=self.folder.id,
        )

    def _preview(self, step: int, trainer: Trainer) -> None:
        from lora_train.models.sampling import Request, sample

        options, data = trainer.config.preview, trainer.config.data
        assert data.resolution
        for number, prompt in enumerate(options.prompts):
            request = Request(
                prompt,
                [options.seed],
                data.resolution,
                data.resolution,
                steps=options.steps,
                guidance=options.guidance,
                clip_skip=trainer.config.model.clip_skip,
            )
            with trainer.autocast:
                picture = sample(trainer.model, request)[0]
            name = f"step{step:08d}-{number}.png"
            picture.save(self.folder.path / "samples" / name)
            self.folder.event("preview", step=step, prompt=prompt, file=name)


def pick_device(asked: str) -> str:
    """ "cuda", "mps" or "cpu"; `asked` may be "auto". Raises LoraTrainError when it is not there."""
    import torch

    mps = getattr(torch.backends, "mps", None)
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": mps is not None and mps.is_available(),
        "cpu": True,
    }
    if asked == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there.get(asked.split(":")[0], False):
        raise LoraTrainError(f"the device {asked!r} is not there.", "train.device", "Choose auto or cpu.")
    return asked


def _fast_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _rounded(report: dict[str, Any]) -> dict[str, Any]:
    """Shorter numbers for the event log."""
    out: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, float):
            value = float(f"{value:.6g}")
        out[name] = value
    return out
