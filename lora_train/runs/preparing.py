"""The preparing stage of a run: the operations on the pictures, with the host's models, and their result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import PrepareOptions, RunConfig
from lora_train.config.usual import DEFAULT_REPEATS
from lora_train.data.scan import Manifest, Rejected, scan
from lora_train.datasets.work import alone_in, services_of, work_folder
from lora_train.errors import LoraTrainError, Stopped
from lora_train.runs.folder import RunFolder

if TYPE_CHECKING:
    from lora_train.data.training_set import Dataset
    from lora_train.hosts.base import Host
    from lora_train.prepare import Prepared


def prepare_pictures(folder: RunFolder, config: RunConfig, host: Host, stopped: Callable[[], bool]) -> Manifest:
    """Do the operations and scan the result; outcome and reasons go into the run's events.

    Raises LoraTrainError when nothing is left, or when the host fails; Stopped.
    """
    from lora_train.prepare import prepare

    stage = "pictures"

    def staged(name: str) -> None:
        nonlocal stage
        stage = name

    def progress(done: int, total: int) -> None:
        folder.event("prepare", stage=stage, done=done, total=total)
        host.report_progress(folder.id, done, total, f"Preparing {stage}")
        if stopped():
            raise Stopped

    def note(text: str) -> None:
        folder.event("note", text=text)

    options, why = with_target(config)
    note(f"Prepared pictures are {options.target} pixels long: {why}.")
    source = Path(config.data.folder).expanduser()
    work, services = work_folder(source, host), services_of(host, options)
    with alone_in(work):
        prepared = prepare(source, options, work, services, progress, stopped, config.data.tag, staged, note)
    note(prepared.line())
    folder.update(report=str(prepared.report))
    rejected = _rejected(prepared)
    if prepared.summary and not prepared.summary["kept"]:
        reasons = "; ".join(f"{one.path.name}: {one.reason}" for one in rejected[:3])
        raise LoraTrainError(
            f"none of the pictures was kept ({reasons}).", str(prepared.report), "Lower the limits, or overrule them."
        )
    manifest = _scan(config, prepared.folder, prepared.masks)
    manifest.rejected += rejected
    return manifest


def with_target(config: RunConfig) -> tuple[PrepareOptions, str]:
    """The preparation with its target size chosen, and the reason: a size that is set wins, then the training's
    resolution, then the size that the base model was trained at."""
    from lora_train.models.opening import native_resolution

    if config.prepare.target:
        return config.prepare, "as asked for"
    if config.data.resolution:
        return replace(config.prepare, target=max(config.data.size)), "the training's resolution"
    native = native_resolution(Path(config.model.path).expanduser())
    return replace(config.prepare, target=native), "the size this base model was trained at"


def prepared_before(config: RunConfig, host: Host) -> Manifest:
    """The pictures that an earlier run prepared. Raises LoraTrainError when there are none."""
    from lora_train.prepare.pipeline import output_folders

    source = Path(config.data.folder).expanduser()
    pictures, masks = output_folders(source, work_folder(source, host))
    if not pictures.is_dir():
        raise LoraTrainError(
            "the pictures have not been prepared.", config.data.folder, "Run once without --noprocess."
        )
    return _scan(config, pictures, masks if masks.is_dir() else None)


def find_masks(folder: RunFolder, config: RunConfig, manifest: Manifest, host: Host) -> None:
    """Set the pictures' masks, where the loss is masked. Raises LoraTrainError when none has one."""
    if not config.train.masked_loss:
        return
    from lora_train.data.masks import attach_masks

    named = config.data.mask_folder
    without = attach_masks(manifest, Path(named).expanduser() if named else manifest.masks, host.may_read)
    if without:
        text = f"{without} of {len(manifest.pictures)} pictures have no mask and count as a whole."
        folder.event("note", text=text)


def note_buckets(folder: RunFolder, config: RunConfig, host: Host, dataset: Dataset) -> None:
    """Write the real buckets to the prepared pictures' metadata; that is for other tools, so a failure is only
    noted."""
    from lora_train.prepare.metadata import METADATA, correct_resolutions

    buckets = {item.picture.path.absolute(): item.placement.bucket for item in dataset.items}
    try:
        correct_resolutions(work_folder(Path(config.data.folder), host) / METADATA, buckets)
    except LoraTrainError as error:
        folder.event("note", text=f"The metadata was not completed: {error}")


def _scan(config: RunConfig, pictures: Path, masks: Path | None) -> Manifest:
    manifest = scan(pictures, config.data.tag, config.data.repeats or DEFAULT_REPEATS, data=config.data)
    manifest.masks = masks
    return manifest


def _rejected(prepared: Prepared) -> list[Rejected]:
    """The report's rejected pictures, in its own words."""
    if prepared.report is None:
        return []
    entries = json.loads(prepared.report.read_text(encoding="utf-8")).get("pictures", [])
    return [Rejected(Path(e["file"]), e["reason"]) for e in entries if e["outcome"] == "rejected"]
