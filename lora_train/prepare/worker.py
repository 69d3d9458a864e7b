"""The work on one picture: open, crop, score, edit, write. Run as a module it is one process of the pool.

Such a process reads a plan and then tasks, one JSON text per line, and answers each with a line. It never imports the
host's main module, so it is safe inside a WebUI and on Windows; torch is not imported either.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from lora_train.atomic import write_bytes
from lora_train.errors import LoraTrainError
from lora_train.hashing import file_hash
from lora_train.pictures.kinds import EXTENSIONS
from lora_train.pictures.opening import BrokenPicture, NotHere, has_alpha, load_alpha, load_picture
from lora_train.pictures.plain import is_plain
from lora_train.prepare.base import NoView, Plan, View, fit
from lora_train.prepare.detectors import Detectors
from lora_train.prepare.opened import Opened
from lora_train.prepare.operations import Check, Comparison, Edit, Service, Source, active
from lora_train.prepare.records import Record, Store, ViewRecord
from lora_train.prepare.tools import Tools
from lora_train.prepare.verdicts import verdict

THUMBNAIL = 160


class Worker:
    """Does tasks in this process; not to be shared between threads."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._store = Store(plan)
        self._tools = Tools(plan, Detectors(plan))

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """A task is {"path", "content" (the hash, if known), "make" (operations to be finished even if rejected)},
        or {"content", "served" (operation: a file)} for pictures that the host's services have processed.

        Returns the picture's record as JSON data. What is wrong with a picture is in the record; only a
        LoraTrainError (the disk is full) is raised.
        """
        path, content = Path(task.get("path", "")), task.get("content", "")
        try:
            if "served" in task:
                return self._finish_served(task).to_dict()
            content = content or file_hash(path)
            record = self._store.read(content) or Record(content)
            if not record.broken and self._work_on(path, record, task.get("make", ())):
                self._store.write(record)
        except BrokenPicture as error:
            record = Record(content, broken=str(error))
            # the installed packages may change until the next run
            if "served" not in task and not isinstance(error, NotHere):
                self._store.write(record)
        except LoraTrainError:
            raise
        except OSError as error:  # not stored: the next run tries again
            record = Record(content, broken=f"the file cannot be read ({error.strerror or error})")
        except Exception as error:
            traceback.print_exc()
            record = Record(content, broken=f"the picture could not be processed ({type(error).__name__}: {error})")
        return record.to_dict()

    def _work_on(self, path: Path, record: Record, make: list[str]) -> bool:
        """Make views that the record lacks, and finish those that are wanted. Returns whether anything was done."""
        opened, changed = Opened(path, self._plan.background), False
        record.size, record.moving = opened.size, opened.moving
        known = {view.operation: view for view in record.views}
        for operation in active(Source, self._plan):
            found, view = known.get(operation), None
            if found is None:
                found, view = self._make_and_score(opened, operation, record)
                record.views.append(found)
                changed = True
            if wants(found, self._plan, make) and not found.file and not found.crop:
                self._finish(view or self._view(opened, operation), found, path, record)
                changed = True
        if "original" not in record.thumbnails:
            self._thumbnail(opened.at_least(THUMBNAIL), "original", record)
        if changed:
            record.plain = is_plain(opened.at_least(THUMBNAIL))
        return changed

    def _make_and_score(self, opened: Opened, operation: str, record: Record) -> tuple[ViewRecord, View | None]:
        """Make a view and score it."""
        try:
            view = self._view(opened, operation)
        except NoView as error:
            return ViewRecord(operation, error.rule, str(error)), None
        reduced = fit(view.picture, self._plan.target)
        if "resize" in active(Edit, self._plan) and not self._plan.restore and max(view.size) >= self._plan.target:
            view.picture = reduced
        found = ViewRecord(
            operation,
            size=view.size,
            box=view.box.as_list() if view.box else None,
            detector=view.detector,
            confidence=view.confidence,
            problem=view.problem,
            scores={name: check.score(reduced) for name, check in active(Check, self._plan).items()},
        )
        for comparison in active(Comparison, self._plan).values():
            found.signature = comparison.signature(reduced)
        self._thumbnail(reduced, operation, record)
        return found, view

    def _view(self, opened: Opened, operation: str) -> View:
        return active(Source, self._plan)[operation].make(opened, self._tools)

    def _finish(self, view: View, found: ViewRecord, path: Path, record: Record) -> None:
        """Write the finished picture, or the one that the host's services are to process."""
        folder, transparent = self._store.folder(record.content), has_alpha(path)
        if transparent:
            view.mask = _opaque(path, view)
        if any(service.wanted(found.size, self._plan) for service in active(Service, self._plan).values()):
            found.crop = f"{view.operation}.crop.png"
            write_picture(folder / found.crop, view.picture)
            if view.mask is not None:
                found.mask = f"{view.operation}.mask.png"
                write_picture(folder / found.mask, view.mask)
        elif view.operation == "original" and not active(Edit, self._plan) and not transparent and _plainly_named(path):
            found.file = f"original{path.suffix.lower()}"
            write_bytes(folder / found.file, path.read_bytes())
        else:
            self._edit(view, found, folder)

    def _finish_served(self, task: dict[str, Any]) -> Record:
        record = self._store.read(task["content"])
        if record is None:
            raise LoraTrainError("the record of a picture is gone.", self._plan.store, "Prepare the pictures again.")
        folder = self._store.folder(record.content)
        for found in record.views:
            served = task["served"].get(found.operation)
            if served and found.crop:
                view = View(found.operation, load_picture(folder / served), found.size)
                if found.mask:
                    view.mask = load_picture(folder / found.mask).convert("L").resize(view.picture.size)
                self._edit(view, found, folder)
                found.crop = ""
        self._store.write(record)
        return record

    def _edit(self, view: View, found: ViewRecord, folder: Path) -> None:
        for edit in active(Edit, self._plan).values():
            edit.apply(view, self._tools)
        if view.mask is not None:
            found.mask = f"{view.operation}.mask.png"
            write_picture(folder / found.mask, view.mask)
        found.file = f"{view.operation}.png"
        write_picture(folder / found.file, view.picture)

    def _thumbnail(self, picture: Image.Image, operation: str, record: Record) -> None:
        small = fit(picture, THUMBNAIL)
        record.thumbnails[operation] = name = f"{operation}.thumb.jpg"
        buffer = BytesIO()
        small.save(buffer, "JPEG", quality=80)
        write_bytes(self._store.folder(record.content) / name, buffer.getvalue())


def wants(found: ViewRecord, plan: Plan, make: list[str]) -> bool:
    """Whether a view is to be finished: it is kept, or a person wants it."""
    return found.possible and (found.operation in make or verdict(found, plan).kept)


def _plainly_named(path: Path) -> bool:
    """Whether the file's name says that it is a picture; other files' copies are written as PNG."""
    return path.suffix.lower() in EXTENSIONS


def _opaque(path: Path, view: View) -> Image.Image:
    """The opacity of the part of the file in the view, in the view's size."""
    alpha = load_alpha(path)
    if view.box:
        alpha = alpha.crop((view.box.left, view.box.top, view.box.right, view.box.bottom))
    return alpha if alpha.size == view.picture.size else alpha.resize(view.picture.size, Image.Resampling.BILINEAR)


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG atomically, quickly rather than small."""
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    write_bytes(path, buffer.getvalue())


def main(stream: TextIO, out: TextIO) -> None:
    """Answer tasks until there are no more."""
    worker = Worker(Plan.from_dict(json.loads(stream.readline())))
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in stream:
        try:
            answer = worker.do(json.loads(line))
        except LoraTrainError as error:
            answer = {"error": error.problems[0].to_dict()}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    # libraries print to the standard output, which is the pipe to the parent
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    main(sys.stdin, answers)
