"""One run from its configuration to the LoRA file."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.config import Facts, RunConfig, idle_notes, resolve
from lora_train.config.sections.in_training import CHUNK
from lora_train.data.parts import assign_parts
from lora_train.data.scan import Manifest
from lora_train.data.tag_statistics import tag_note
from lora_train.data.trigger import trigger_of
from lora_train.device import fast_bf16, free_memory, pick_device
from lora_train.errors import LoraTrainError, Stopped
from lora_train.hosts.base import never
from lora_train.lock import RunLock
from lora_train.memory import forget, give_back, is_out_of_memory, memory_given_back
from lora_train.records.families import FAMILIES
from lora_train.records.family import CHUNKS
from lora_train.runs.check import check_run, output_path, unpacked
from lora_train.runs.folder import Event, RunFolder
from lora_train.runs.logs import logging_steps
from lora_train.runs.preparing import find_masks, note_buckets, prepare_pictures, prepared_before
from lora_train.runs.resuming import check_resume, clear_halves, forget_states, own_result
from lora_train.runs.stages import Result, Stages
from lora_train.runs.threads import same_threads
from lora_train.runs.writer import RunWriter, in_words

if TYPE_CHECKING:
    from lora_train.data.training_set import Dataset
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

    `listener` receives the run's events; `stopped` is called between steps, and when it returns True the
    LoRA so far is saved. Raises LoraTrainError; the run's folder then says "failed" and why.
    """
    host = host or _standalone()
    config = unpacked(config, host)
    manifest = check_run(config, host, stages)
    folder = RunFolder.create(host.data_dir() / "runs", config, listener, stages)
    return execute(folder, config, manifest, host, stopped, stages)


def resume_training(
    folder: RunFolder, host: Host | None = None, stopped: Callable[[], bool] = never, steps: int | None = None
) -> Result:
    """Continue a run that was stopped, killed or failed, from its last saved state, or again from the start.

    With more `steps` than before, a finished run continues as well. Raises LoraTrainError when there is nothing to
    resume, or something it depends on is gone.
    """
    host = host or _standalone()
    config, manifest, stages = check_resume(folder, host, steps)
    return execute(folder, config, manifest, host, stopped, stages)


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
    """Execute a checked run in its folder; every way it can end is recorded there."""
    with RunLock(folder.path):
        clear_halves(folder)
        starts = int(folder.read().get("starts", 0)) + 1
        folder.update(config=config.to_dict(), starts=starts, state="preparing", problems=None)
        with logging_steps(folder, config):
            result = _execute(_Execution(folder, config, manifest, host, stopped, stages))
    try:
        host.refresh_loras(result.path)
    except Exception as error:  # the LoRA itself is saved
        log.exception("the host's list of LoRAs was not refreshed")
        folder.event("note", text=f"The list of LoRAs could not be refreshed: {in_words(error)}")
    return result


def _execute(run: _Execution) -> Result:
    folder = run.folder
    try:
        run.prepare_pictures()
        return run.with_the_gpu()
    except Stopped:
        folder.set_state("stopped", finished=time.time())
        return Result(None, 0, True, folder.path)
    except Exception as error:
        if run.saved is not None:
            return _ended_after_saving(run, run.saved, error)
        if isinstance(error, LoraTrainError):
            _failed(folder, error)
            raise
        log.exception("the run %s failed", folder.id)
        wrapped = _unexpected(error, folder)
        _failed(folder, wrapped)
        raise wrapped from error


def _ended_after_saving(run: _Execution, result: Result, error: Exception) -> Result:
    """Failures after the LoRA is saved (the last preview, the card, the WebUI's model coming back) are only noted."""
    log.error("the run %s has saved its LoRA, but a later part failed", run.folder.id, exc_info=error)
    run.folder.event("note", text=f"The LoRA is saved, but a later part failed: {in_words(error)}")
    try:
        return run.finish(result)
    except (LoraTrainError, OSError):
        log.exception("cannot note that the run %s has ended", run.folder.id)
        return result


def _failed(folder: RunFolder, error: LoraTrainError) -> None:
    problems = [problem.to_dict() for problem in error.problems]
    try:
        folder.set_state("failed", finished=time.time(), problems=problems)
        folder.event("error", problems=problems)
    except (LoraTrainError, OSError):
        log.exception("cannot note that the run %s failed", folder.id)


def _memory_error() -> LoraTrainError:
    return LoraTrainError(
        "there is not enough memory.",
        "train",
        "Lower the batch size or the resolution, switch gradient checkpointing on, or close other programs.",
    )


def _unexpected(error: Exception, folder: RunFolder) -> LoraTrainError:
    if is_out_of_memory(error):
        return _memory_error()
    return LoraTrainError(
        f"unexpected error: {type(error).__name__}: {error}.",
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
    saved: Result | None = None
    """Set as soon as the LoRA is on disk."""

    def prepare_pictures(self) -> None:
        """Do the operations on the pictures, if any, while the host's models are still loaded."""
        if not self.config.prepare.operations:
            return
        reg_folders = self.manifest.reg_folders
        if self.stages.process:
            self.manifest = prepare_pictures(self.folder, self.config, self.host, self.stopped)
        else:
            self.manifest = prepared_before(self.config, self.host)
        self.manifest.reg_folders = reg_folders
        assign_parts(self.manifest, self.config.data, self.config.train.seed, self.host.may_read)

    def with_the_gpu(self) -> Result:
        """Everything that needs the device, which the host lends."""

        def note(text: str) -> None:
            self.folder.event("note", text=text)

        with self.host.lend_gpu(self.stopped, note), memory_given_back(), same_threads(self.folder):
            try:
                return self.run()
            except Exception as error:
                if not isinstance(error, (LoraTrainError, Stopped)):
                    # as text: a handler that keeps its records would keep the traceback, and with it the model
                    log.error("an unexpected error in the run %s\n%s", self.folder.id, traceback.format_exc())
                forget(error)
                raise error.with_traceback(None)  # noqa: B904 - a bare raise has the traceback again in Python 3.10

    def run(self) -> Result:
        from lora_train.models.opening import assumed_by, open_model
        from lora_train.models.tokenizers import TokenizerSources

        self.started = time.time()
        for rejected in self.manifest.rejected:
            self.folder.event("rejected", file=rejected.path.name, reason=rejected.reason)
        for text in (
            *idle_notes(self.config),
            *self.manifest.notes,
            *filter(None, [tag_note(self.manifest)]),
            f"Found {self.manifest.summary()}.",
        ):
            self.folder.event("note", text=text)
        find_masks(self.folder, self.config, self.manifest, self.host)
        if not (self.stages.train or self.stages.latents):
            self._shutdown()
            return self._prepared_only()
        self.folder.event("note", text=f"Loading the base model {Path(self.config.model.path).name} ...")
        path = Path(self.config.model.path).expanduser()
        sources = TokenizerSources(
            self.host.tokenizers, self.host.downloads, lambda text: self.folder.event("note", text=text)
        )
        model = open_model(path, sources, assumed_by(self.config), keep_dtype=True)
        for text in model.notes:
            self.folder.event("note", text=text)
        config = self._choose(model)
        for text in self._fit_captions(model, config):
            self.folder.event("note", text=text)
        dataset = self._prepare(model, config)
        self._shutdown()  # everything that needs the WebUI is done, and a later failure can be resumed
        if not self.stages.train:
            return self._prepared_only()
        return self._train(model, config, dataset)

    def _shutdown(self) -> None:
        """Stop the WebUI where that is asked for; where it does not stop, the training continues beside it."""
        if not self.stages.shutdown:
            return
        self.folder.event("note", text="Stopping the WebUI ...")
        try:
            self.host.shutdown()
        except LoraTrainError as error:
            self.folder.event("note", text=f"The WebUI was not stopped, and the training continues beside it: {error}")
        else:
            self.folder.event("note", text="The WebUI is stopped.")

    def _fit_captions(self, model: BaseModel, config: RunConfig) -> list[str]:
        """Read captions of the length that is chosen, and move the tag to where the model reads it. Returns notes on
        what is cut off."""
        from lora_train.data.long_captions import fit_captions

        data = config.data
        if data.max_token_length and CHUNKS in FAMILIES[model.family].features:
            model.text_chunks = data.max_token_length // CHUNK  # type: ignore[attr-defined]
        if data.weighted_captions:
            model.text_weights = True  # type: ignore[attr-defined]
        return fit_captions(self.manifest, data, model.text_room, model.count_tokens)

    def _prepared_only(self) -> Result:
        self.folder.set_state("finished", finished=time.time(), result=None)
        return Result(None, 0, False, self.folder.path)

    def _choose(self, model: BaseModel) -> RunConfig:
        """Fill in the automatic choices, and report them; a resumed run keeps its first choices."""
        resolved = self.folder.read().get("resolved")
        if resolved is not None and self.folder.saved_state is not None:
            return self._longer(RunConfig.from_dict(resolved))
        from lora_train.data.long_captions import longest_caption
        from lora_train.data.training_set import count_epoch
        from lora_train.train.predicting import Predictor

        chunks = CHUNKS in FAMILIES[model.family].features
        device = pick_device(self.config.train.device, auto=self.host.device())
        facts = Facts(
            pictures=len(self.manifest.trained),
            native_resolution=model.native_resolution,
            size_step=FAMILIES[model.family].latents.factor,
            text_encoders=len(model.text_prefixes),
            device=device,
            fast_bf16=fast_bf16(device),
            unet_parameters=_unet_parameters(model),
            free_memory=(free := free_memory(device)),
            predict=Predictor(model, free),
            longest_caption=longest_caption(self.manifest, self.config.data, model.count_tokens) if chunks else None,
            epoch=lambda data: count_epoch(self.manifest.pictures, data, model.size_step),
        )
        config, choices = resolve(self.config, facts)
        self.folder.update(resolved=config.to_dict(), choices=[asdict(choice) for choice in choices])
        self.folder.event("choices", choices=[asdict(choice) for choice in choices])
        return config

    def _longer(self, before: RunConfig) -> RunConfig:
        """The run with its first choices, and the steps that are asked for now."""
        steps = self.config.train.max_train_steps
        if steps is None or steps == before.train.max_train_steps:
            return before
        from lora_train.train.schedule import lr_factor

        self.folder.event("note", text=f"Training {steps} steps instead of {before.train.max_train_steps}.")
        config = replace(before, train=replace(before.train, max_train_steps=steps))
        done = before.train.max_train_steps or 1
        if any(lr_factor(before, step) != lr_factor(config, step) for step in range(0, done, max(1, done // 100))):
            text = f"The learning rate continues as in a training of {steps} steps, so it may first rise again."
            self.folder.event("note", text=text)
        self.folder.update(resolved=config.to_dict())
        return config

    def _prepare(self, model: BaseModel, config: RunConfig) -> Dataset:
        import torch

        from lora_train.data.cache import LatentCache
        from lora_train.data.remarks import remarks
        from lora_train.data.training_set import build_dataset

        def progress(done: int, total: int) -> None:
            self.folder.event("prepare", stage="latents", done=done, total=total)
            self.host.report_progress(self.folder.id, done, total, "Preparing latents")
            if self.stopped():
                raise Stopped

        model.vae_to(torch.device(config.train.device))  # alone: neither UNet nor text encoders are there yet
        known, cache = len(self.manifest.rejected), LatentCache(self.host.data_dir() / "cache" / "latents")
        may_encode = self.stages.process and self.stages.latents
        dataset = build_dataset(
            self.manifest, config.data, model, cache, model.size_step, progress, may_encode, self.host.may_read
        )
        model.vae_to(torch.device("cpu"))
        give_back()
        cache.prune(int(self.host.settings()["cache_gb"] * 1e9), set(dataset.latents))
        if dataset.from_npz:
            text = f"{dataset.from_npz} pictures' latents come from sd-scripts' .npz files."
            self.folder.event("note", text=text)
        for text in (*dataset.notes, *remarks(dataset, config.data.batch_size)):
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
            except LoraTrainError as error:  # the training itself can continue without
                self.folder.event("note", text=f"The state for a resume was not saved: {error}")

        def eased(text: str) -> None:
            self.folder.event("note", text=text)
            self.folder.update(resolved=trainer.config.to_dict())  # a resume begins with it

        callbacks = Callbacks(report, save, state, preview, eased, self.stopped)
        trainer = Trainer(config, model, dataset, callbacks, trigger=trigger_of(self.manifest, config.data.tag))
        for text in trainer.notes:
            self.folder.event("note", text=text)
        writer = RunWriter(self.folder, self.manifest, trainer, self.started, self.host.may_read, self.host.lora_dir())
        self._continue(trainer)
        self.folder.set_state("training", steps=config.train.max_train_steps)
        steps = trainer.run()
        if steps == 0:
            raise Stopped
        path, stopped = output_path(config), steps < (config.train.max_train_steps or 0)
        own = own_result(self.folder) == path
        writer.save_result(path, overwrite=config.save.overwrite or own)
        self.saved = Result(path, steps, stopped, self.folder.path)
        if not stopped:
            preview(steps)
        trainer.network.detach()
        writer.write_card(path)
        if not stopped:
            self._keep_last_state(trainer)
        return self.finish(self.saved)

    def finish(self, result: Result) -> Result:
        """Record in the run's folder that it has ended with a LoRA."""
        state = "stopped" if result.stopped else "finished"
        self.folder.set_state(state, finished=time.time(), result=str(result.path), steps_done=result.steps)
        if not result.stopped:
            self.folder.state_path.unlink(missing_ok=True)
        return result

    def _keep_last_state(self, trainer: Trainer) -> None:
        """Save the state at the end, so that the run can be trained longer."""
        try:
            trainer.write_state(self.folder.finished_state_path)
        except LoraTrainError as error:  # the LoRA is saved
            self.folder.event("note", text=f"The state for training it longer was not saved: {error}")
        self.folder.state_path.unlink(missing_ok=True)
        forget_states(self.folder.path.parent)

    def _continue(self, trainer: Trainer) -> None:
        """Load the saved state, if this run has one."""
        saved = self.folder.saved_state
        if saved is None:
            if self.folder.read().get("starts", 0) > 1:
                self.folder.event("resumed", step=0)
                self.folder.event("note", text="Starting again from the beginning: no state was saved.")
            return
        same = trainer.read_state(saved)
        self.folder.event("resumed", step=trainer.steps_done)
        self.folder.event("note", text=f"Continuing after step {trainer.steps_done}.")
        if not same:
            self.folder.event("note", text="The pictures or captions have changed since; the new ones are used.")


def _rounded(report: dict[str, Any]) -> dict[str, Any]:
    """Shorter numbers for the event log."""
    out: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, float):
            value = float(f"{value:.6g}")
        out[name] = value
    return out


def _unet_parameters(model: BaseModel) -> int:
    """How many weights the base has besides its text encoders and its VAE."""
    parts = [module for prefix, module in model.roots().items() if prefix not in model.text_prefixes]
    return sum(parameter.numel() for module in parts for parameter in module.parameters())
