"""What follows the verdicts: finishing pictures that a person wants, and the host's services."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from lora_train.data.scan import counted
from lora_train.errors import Stopped
from lora_train.pictures.opening import load_picture
from lora_train.prepare.base import Plan, Services
from lora_train.prepare.detectors import shared_memory
from lora_train.prepare.operations import Service, active
from lora_train.prepare.pool import run_tasks
from lora_train.prepare.records import Record, Store
from lora_train.prepare.report import Entry
from lora_train.prepare.verdicts import broken
from lora_train.prepare.worker import write_picture

Stop = Callable[[], bool]
UNCHANGED = {
    "upscale": "sent: nothing was upscaled. The WebUI's log may say why.",
    "restore": "sent: nothing was restored. Either no face was found, or the WebUI lacks CodeFormer's weights, which "
    "it downloads when it first restores a face: its log says so.",
}
"""The note about pictures that a service returned unchanged."""


def finish_overruled(entries: list[Entry], plan: Plan, stopped: Stop) -> None:
    """Finish the pictures that the rules reject but a person wants."""
    wanted = [entry for entry in entries if entry.verdict.kept and entry.view and not entry.view.file]
    tasks: dict[str, dict[str, Any]] = {}
    for entry in wanted:
        if entry.view and not entry.view.crop:
            task = tasks.setdefault(entry.record.content, {"path": str(entry.path), "make": []})
            task["make"].append(entry.view.operation)
    _run(tasks, wanted, plan, stopped)


def serve(entries: list[Entry], plan: Plan, services: Services, stopped: Stop) -> list[str]:
    """Let the host process the kept pictures that need it, then finish them. What is done survives a stop.

    Returns notes on pictures that came back as they were sent.
    """
    store, notes = Store(plan), []
    waiting = [entry for entry in entries if entry.verdict.kept and entry.view and entry.view.crop]
    calls = {"upscale": services.upscale, "restore": services.restore}
    tasks: dict[str, dict[str, Any]] = {}
    for entry in waiting:
        if entry.view:
            task = tasks.setdefault(entry.record.content, {"served": {}})
            task["served"][entry.view.operation] = entry.view.crop
    for name, service in active(Service, plan).items():
        call, todo = calls[name], []
        assert call is not None
        for entry in waiting:
            if entry.view and service.wanted(entry.view.size, plan):
                folder, served = store.folder(entry.record.content), tasks[entry.record.content]["served"]
                before, after = served[entry.view.operation], f"{entry.view.operation}.{name}.png"
                served[entry.view.operation] = after
                if before != after and not (folder / after).is_file():  # else the file occurs twice, or was done before
                    todo.append((folder / before, folder / after))
        same = _apply(call, todo, stopped)
        if same:
            notes.append(f"{counted(same, 'picture')} of {len(todo)} came back as {UNCHANGED[name]}")
    _run(tasks, waiting, plan, stopped)
    for content in tasks:
        for part in store.folder(content).glob("*.*.png"):
            if part.name.split(".")[1] in ("crop", *calls):
                part.unlink(missing_ok=True)
    return notes


def _apply(
    call: Callable[[Iterable[Image.Image]], Iterator[Image.Image]], todo: list[tuple[Path, Path]], stopped: Stop
) -> int:
    """Let a service of the host convert files. Returns how many pictures it did not change at all."""
    same = 0
    if not todo:
        return same
    for (before, after), picture in zip(todo, call(load_picture(before) for before, _ in todo)):
        made = picture.convert("RGB")
        same += made.tobytes() == load_picture(before).tobytes()
        write_picture(after, made)
        if stopped():
            raise Stopped
    return same


def _run(tasks: dict[str, dict[str, Any]], entries: list[Entry], plan: Plan, stopped: Stop) -> None:
    """Do tasks, one per content, and copy the answers to all entries with that content."""
    contents = list(tasks)
    listed = [{"content": content, **tasks[content]} for content in contents]
    for number, answer in run_tasks(listed, plan, not shared_memory(plan), stopped):
        record = Record.from_dict(answer)
        for entry in entries:
            if entry.record.content == contents[number]:
                _update(entry, record)


def _update(entry: Entry, record: Record) -> None:
    view = next((view for view in record.views if entry.view and view.operation == entry.view.operation), None)
    if view is None or not (view.file or view.crop):
        entry.verdict = broken(record.broken or "the file changed while it was being processed")
    else:
        entry.view, entry.record = view, record
