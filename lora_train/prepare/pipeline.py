"""From a folder of pictures to a folder of prepared ones, with a report on each.

Nothing is written to the input folder. Below the work folder: `pictures/NAME/` (what is kept, for `data.scan`, in the
structure of the input), `masks/NAME/`, `metadata.json` (kohya's shape), `report.json`, `overrules.json`, and what a
later run needs: `store/`, `index.json`, `published.json`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_train.config import PrepareOptions
from lora_train.data.scan import counted, manifest_of, moving_note, require_folder, require_pictures
from lora_train.data.sources import IMAGEFOLDER, beside_captions
from lora_train.errors import LoraTrainError, Stopped
from lora_train.pictures.captions import caption_file
from lora_train.pictures.finding import Found, find
from lora_train.pictures.left_out import shown
from lora_train.pictures.plain import plain_note
from lora_train.pictures.strays import stray_notes
from lora_train.prepare.base import Plan, Services
from lora_train.prepare.detectors import choose, shared_memory, title_of
from lora_train.prepare.index import Index
from lora_train.prepare.interrogate import caption, recaptions, services_for, take_captions, take_edits
from lora_train.prepare.masks import SEGMENTED, take_masks
from lora_train.prepare.metadata import write_prepared
from lora_train.prepare.operations import TABLE, Edit, Source, active
from lora_train.prepare.pool import run_tasks
from lora_train.prepare.publish import Outputs, output_names
from lora_train.prepare.records import Record, Store
from lora_train.prepare.report import REPORT, Entry, read_overrules, summarise, summary_line, write_report
from lora_train.prepare.serving import finish_overruled, serve
from lora_train.prepare.verdicts import Input, decide
from lora_train.prepare.worker import wants

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]
LACKING = {
    "upscale": "Nothing is upscaled: there is no host with an upscaler. Use a WebUI (--server).",
    "restore": "No faces are restored: there is no host with face restoration. Use a WebUI (--server).",
}


@dataclass(frozen=True)
class Prepared:
    """The result of a preparation."""

    folder: Path
    """The folder of pictures to train on, for `data.scan`."""
    masks: Path | None = None
    """Masks at the same relative paths as the pictures (as PNG): of `segment`, of pictures with alpha, and those that
    were beside pictures."""
    metadata: Path | None = None
    """kohya's metadata of the pictures; beside it that of the rejected ones."""
    report: Path | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is not possible here, and what would help."""

    def line(self) -> str:
        """The summary in one line for the person."""
        return summary_line(self.summary) if self.summary else "The pictures are used as they are."


def prepare(
    folder: Path,
    options: PrepareOptions,
    work: Path,
    services: Services = Services(),
    progress: Progress = lambda done, total: None,
    stopped: Stop = lambda: False,
    tag: str = "",
    stage: Callable[[str], None] = lambda name: None,
    note: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Apply the operations of `options` to all pictures below `folder`; only what changed since the last run in `work`.

    `tag` goes into new captions. `stage` receives what `progress` counts from then on ("pictures",
    "captions", "tags"), `note` what is left out, what is not possible here and which captions cannot be read. A bad
    picture is reported, never fatal. Raises LoraTrainError when there are no pictures, when the disk is full, or when a
    service of the host fails; Stopped when `stopped` says so, and what was done until then is kept.
    """
    if not options.operations:
        return Prepared(folder)
    found = _find(folder, work, services.may_read)
    captions, unusable = beside_captions(folder, services.may_read)
    inputs = [
        Input(
            path,
            path.relative_to(folder),
            captioned=path in captions or caption_file(path, services.may_read) is not None,
        )
        for path in found.pictures
    ]
    plan, notes = _plan(options, work, services)
    notes = [*_remarks(found, SEGMENTED in active(Edit, plan)), *notes]
    for text in notes:
        note(text)
    index = Index(work)
    stage("pictures")
    try:
        _examine(inputs, plan, index, progress, stopped)
    finally:
        index.write()
    for text in _seen(inputs):
        notes.append(text)
        note(text)
    entries = decide(inputs, plan, read_overrules(work))
    finish_overruled(entries, plan, stopped)
    for text in serve(entries, plan, services, stopped):
        notes.append(text)
        note(text)
    outputs = Outputs(work, recaptions(plan, services), services.may_read)
    masked, unseen = take_masks(entries, plan, found.masks, stopped)
    _place(entries, inputs, masked, plan, outputs, folder, work)
    bare, unread = take_captions(entries, plan, services, captions, outputs)
    more = [*filter(None, [unusable]), *unseen, *unread, *stray_notes(folder, bool(bare), folder / IMAGEFOLDER)]
    for text in more:
        note(text)
    notes += more
    caption(bare, plan, services, tag, outputs, stage, progress, stopped)
    outputs.publish()
    take_edits(entries, work)
    metadata = write_prepared(work, entries, plan.target, tag)
    write_report(work, entries, _about(folder, plan, tag, notes))
    _prune(inputs, plan)
    pictures, masks = output_folders(folder, work)
    return Prepared(
        pictures,
        masks if any(entry.mask for entry in entries) else None,
        metadata,
        work / REPORT,
        summarise(entries),
        notes,
    )


def output_folders(folder: Path, work: Path) -> tuple[Path, Path]:
    """Where `prepare` puts pictures and masks; the input folder's name may say repeats and concept (`10_sara`)."""
    return work / "pictures" / _name(folder), work / "masks" / _name(folder)


def _find(folder: Path, work: Path, may_read: Callable[[Path], bool]) -> Found:
    require_folder(folder)
    below, found = work.resolve(), find(folder, may_read=may_read)
    found.pictures = [path for path in found.pictures if not path.resolve().is_relative_to(below)]
    if not found.pictures:
        require_pictures(manifest_of(found))
    return found


def _remarks(found: Found, segments: bool) -> list[str]:
    """What a person should know about the folder, as a training reports it."""
    left_out = manifest_of(found).left_out_line()
    masks = f"The masks beside {counted(len(found.masks), 'picture')} are "
    masks += (
        "not used: segment makes its own." if segments else "used: cropped and scaled with them, for a masked loss."
    )
    return [*found.notes, *([f"Left out: {left_out}."] if left_out else []), *([masks] if found.masks else [])]


def _seen(inputs: list[Input]) -> list[str]:
    """What a person should know about the pictures, once they have been opened."""
    moving = [shown(one.path.name) for one in inputs if one.record.moving]
    plain = [shown(one.path.name) for one in inputs if one.record.plain]
    notes = [moving_note(moving)] if moving else []
    return [*notes, plain_note(plain, len(inputs))] if plain else notes


def _plan(options: PrepareOptions, work: Path, services: Services) -> tuple[Plan, list[str]]:
    """What will be done here, and a note on each operation that is not possible."""
    plan = Plan(
        options,
        str(work / "store"),
        upscale="upscale" in options.operations and services.upscale is not None,
        restore="restore" in options.operations and services.restore is not None,
        weights=services.weights,
    )
    roles = {role for name, one in TABLE.items() if plan.has(name) for role in getattr(one, "roles", ())}
    plan, notes = choose(plan, roles)
    available = {"upscale": services.upscale, "restore": services.restore}
    notes += [text for name, text in LACKING.items() if plan.has(name) and available[name] is None]
    if plan.has("interrogate"):
        notes += services_for(services, options)[1]
    if not active(Source, plan):
        raise LoraTrainError("; ".join(notes), "prepare.operations", "Or switch on 'original'.")
    return plan, notes


def _examine(inputs: list[Input], plan: Plan, index: Index, progress: Progress, stopped: Stop) -> None:
    """Set the record of every input, from the store or by the workers."""
    store, todo, tasks = Store(plan), [], []
    for one in inputs:
        content = index.content(one.path, one.relative)
        known = store.read(content) if content else None
        if known is None or not _complete(known, plan, store):
            todo.append(one)
            tasks.append({"path": str(one.path), "content": content})
        else:
            one.record = known
    done = len(inputs) - len(todo)
    progress(done, len(inputs))
    if stopped():
        raise Stopped
    for number, answer in run_tasks(tasks, plan, not shared_memory(plan), stopped):
        one = todo[number]
        one.record = Record.from_dict(answer)
        index.put(one.path, one.relative, one.record.content)
        done += 1
        progress(done, len(inputs))


def _complete(record: Record, plan: Plan, store: Store) -> bool:
    """Whether the workers have nothing left to do, and the files exist."""
    folder = store.folder(record.content)
    for view in record.views:
        if (view.file or wants(view, plan, [])) and not (folder / (view.file or view.crop or ".absent")).is_file():
            return False
    return True


def _place(
    entries: list[Entry],
    inputs: list[Input],
    masks: Mapping[str, Path],
    plan: Plan,
    outputs: Outputs,
    folder: Path,
    work: Path,
) -> None:
    """Set where everything kept goes; `masks`, by the entries' keys, win over those made from the pictures."""
    store = Store(plan)
    names = output_names([one.relative for one in inputs], list(active(Source, plan)))
    for entry in entries:
        made, view = store.folder(entry.record.content), entry.view
        thumbnails = entry.record.thumbnails
        thumbnail = thumbnails.get(view.operation if view else "") or thumbnails.get("original")
        entry.thumbnail = (made / thumbnail).relative_to(work).as_posix() if thumbnail else ""
        if not entry.verdict.kept or view is None:
            continue
        place = f"{_name(folder)}/{names[entry.relative, view.operation]}"
        entry.output = f"pictures/{place}{Path(view.file).suffix}"
        outputs.add(entry.output, made / view.file)
        if entry.key in masks or view.mask:
            entry.mask = f"masks/{place}.png"
            outputs.add(entry.mask, masks.get(entry.key, made / view.mask))


def _about(folder: Path, plan: Plan, tag: str, notes: list[str]) -> dict[str, Any]:
    """What precedes the pictures in the report."""
    return {
        "folder": str(folder.expanduser().resolve()),
        "tag": tag,
        "options": plan.options.to_dict(),
        "operations": [name for name in (*TABLE, "interrogate") if plan.has(name)],
        "detectors": {role: title_of(role, plan) for role in plan.detectors},
        "notes": notes,
    }


def _prune(inputs: list[Input], plan: Plan) -> None:
    """Remove the store's entries of other pictures and other options."""
    store, root = Store(plan), Path(plan.store)
    used = {store.folder(one.record.content) for one in inputs}
    for entry in root.glob("*/*"):
        if entry not in used:
            shutil.rmtree(entry, ignore_errors=True)


def _name(folder: Path) -> str:
    return folder.resolve().name or "pictures"
