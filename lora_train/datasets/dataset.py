"""One prepared dataset: its pictures with outcome and reason, a person's decisions, captions.

A dataset is a work folder of the preparation (`preparing.work_folder`), named by that folder's name. Captions are those
of the prepared copy, which is what a run trains on; only `write_beside` writes to the person's own folder.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lora_train.config import PrepareOptions, RunConfig
from lora_train.datasets.loosen import Advice, advice
from lora_train.errors import LoraTrainError, Unknown
from lora_train.links import MayRead, anywhere, leads_out

if TYPE_CHECKING:
    from lora_train.captions.edit import Edit
    from lora_train.captions.journal import Report
    from lora_train.pictures.left_out import Rejected

OUTCOMES = ("kept", "rejected")
LARGE = 1024
"""Longest side in pixels of a picture shown large."""
CHANGES_SHOWN = 60


@dataclass(frozen=True)
class Filter:
    """Which pictures are wanted; an empty field lets all pass."""

    outcome: str = ""
    rule: str = ""
    text: str = ""
    """A part of the file's name."""
    tag: str = ""
    """A tag that the caption has, in the form of the frequency list."""


def journal_of(folder: Path, data: Path) -> Path:
    """The journal of caption edits below `folder`, in the host's data folder."""
    place = folder.resolve()
    digest = hashlib.sha256(str(place).encode("utf-8", "replace")).hexdigest()[:12]
    return data / "caption-edits" / f"{place.name or 'pictures'}-{digest}"


class Dataset:
    """A prepared dataset on disk. Raises LoraTrainError when the report is damaged."""

    def __init__(self, work: Path, data: Path, may_read: MayRead = anywhere) -> None:
        from lora_train.prepare.report import REPORT

        self.work, self._data, self._may_read = work, data, may_read
        try:
            self._report: dict[str, Any] = json.loads((work / REPORT).read_text(encoding="utf-8"))
            self.folder = Path(self._report["folder"])
            self._lines = {str(line["key"]): line for line in self._report["pictures"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LoraTrainError(
                "the report is missing or damaged.", str(work / REPORT), "Prepare the pictures again."
            ) from error

    @property
    def id(self) -> str:
        """The work folder's name."""
        return self.work.name

    @property
    def pictures(self) -> Path:
        """The folder to train on."""
        from lora_train.prepare.pipeline import output_folders

        return output_folders(self.folder, self.work)[0]

    @property
    def notes(self) -> list[str]:
        """Notes on what was not possible here."""
        return [str(note) for note in self._report.get("notes", [])]

    @property
    def tag(self) -> str:
        """The activation tag in the captions that were made."""
        return str(self._report.get("tag", ""))

    @property
    def options(self) -> PrepareOptions:
        """The options it was prepared with. Raises LoraTrainError when the report does not say."""
        if "options" not in self._report:
            raise LoraTrainError("the report does not say how it was made.", self.id, "Prepare the pictures again.")
        return RunConfig.from_dict({"prepare": self._report["options"]}).prepare

    @property
    def journal(self) -> Path:
        """The journal of its caption edits."""
        return journal_of(self.pictures, self._data)

    def lines(self) -> list[dict[str, Any]]:
        """The report's lines, with a person's later decisions; `pending` where these have not been applied yet."""
        from lora_train.prepare.report import read_overrules

        decided = read_overrules(self.work)
        return [_decided(line, decided.get(key)) for key, line in self._lines.items()]

    def line(self, key: str) -> dict[str, Any]:
        """One line. Raises Unknown."""
        from lora_train.prepare.report import read_overrules

        if key not in self._lines:
            raise Unknown("there is no such picture.", key, "Load the page again.")
        return _decided(self._lines[key], read_overrules(self.work).get(key))

    def counts(self) -> dict[str, Any]:
        """How many are kept and rejected, by rule, and how many decisions have not been applied yet."""
        lines = self.lines()
        kept = sum(line["outcome"] == "kept" for line in lines)
        rules = Counter(line["rule"] for line in lines if line["outcome"] == "rejected")
        return {
            "all": len(lines),
            "kept": kept,
            "rejected": len(lines) - kept,
            "rules": dict(rules.most_common()),
            "pending": sum(line["pending"] for line in lines),
        }

    def advice(self) -> list[Advice]:
        """Which checks to loosen, where few pictures are left."""
        return advice(self.lines(), self.options) if "options" in self._report else []

    def page(self, start: int, count: int, wanted: Filter = Filter()) -> dict[str, Any]:
        """Pictures `start` to `start + count` of the wanted ones, with captions, and how many there are."""
        found = [line for line in self.lines() if self._passes(line, wanted)]
        shown = found[start : start + count]
        return {"total": len(found), "start": start, "pictures": [self._with_caption(line) for line in shown]}

    def picture(self, key: str) -> dict[str, Any]:
        """One picture, with the one that it is similar to under "twin". Raises Unknown."""
        line = self._with_caption(self.line(key))
        twin = line["twin"]
        return line | {"twin": self._with_caption(self.line(twin)) if twin in self._lines else None}

    def _passes(self, line: dict[str, Any], wanted: Filter) -> bool:
        from lora_train.captions.edit import count_parts

        return (
            wanted.outcome in ("", line["outcome"])
            and wanted.rule in ("", line["rule"])
            and wanted.text.casefold() in line["file"].casefold()
            and (not wanted.tag or wanted.tag in count_parts([self._caption(line) or ""]))
        )

    def _with_caption(self, line: dict[str, Any]) -> dict[str, Any]:
        return line | {"caption": self._caption(line), "can_be_captioned": self._output(line) is not None}

    def _caption(self, line: dict[str, Any]) -> str | None:
        from lora_train.pictures.captions import read_caption

        return read_caption(self._output(line) or self._source(line), self._may_read)

    def _output(self, line: dict[str, Any]) -> Path | None:
        """The prepared picture, if it exists."""
        return _file_below(self.work, line["output"])

    def _source(self, line: dict[str, Any]) -> Path:
        relative = PurePosixPath(line["file"])
        if relative.is_absolute() or ".." in relative.parts:
            raise Unknown("the report names a file outside its folder.", self.id, "Prepare the pictures again.")
        return self.folder / relative

    def thumbnail(self, key: str) -> Path:
        """The small picture. Raises Unknown when there is none: the file is broken."""
        path = _file_below(self.work, self.line(key)["thumbnail"])
        if path is None:
            raise Unknown("there is no small picture of this file.", key)
        return path

    def source(self, key: str) -> Path:
        """The person's own file. Raises Unknown."""
        return self._source(self.line(key))

    def result(self, key: str) -> Path:
        """The prepared picture. Raises Unknown when there is none: it is rejected."""
        path = self._output(self.line(key))
        if path is None:
            raise Unknown("this picture is not among the prepared ones.", key)
        return path

    def write_caption(self, key: str, text: str) -> None:
        """Write the caption of a kept picture, in the prepared copy; `undo` reverts it. Raises LoraTrainError."""
        from lora_train.captions.journal import write_caption

        line = self.line(key)
        output = self._output(line)
        if output is None:
            raise LoraTrainError(
                "this picture is left out, and has no caption of its own.", line["file"], "Keep it first."
            )
        write_caption(self.pictures, output, text, self.journal)

    def tags(self) -> list[tuple[str, int]]:
        """How many captions each tag occurs in, the most frequent first. Raises LoraTrainError."""
        from lora_train.captions.journal import count_tags

        return sorted(count_tags(self._there())[0].items(), key=lambda item: (-item[1], item[0]))

    def preview(self, edits: Iterable[Edit]) -> dict[str, Any]:
        """What `edits` would change; nothing is written. Raises LoraTrainError."""
        from lora_train.captions.journal import preview_edits

        changes, skipped = preview_edits(self._there(), edits)
        shown = [
            {"file": change.file.relative_to(self.pictures).as_posix(), "before": change.before, "after": change.after}
            for change in changes[:CHANGES_SHOWN]
        ]
        return {"total": len(changes), "changes": shown} | self.left_alone(skipped)

    def left_alone(self, skipped: Iterable[Rejected]) -> dict[str, Any]:
        """What an edit of all captions does not touch: files with the reason, and pictures that have no caption."""
        from lora_train.pictures.finding import find
        from lora_train.pictures.neighbours import caption_file

        pictures = find(self._there(), may_read=lambda path: False).pictures
        reasons = [{"file": one.path.name, "reason": one.reason} for one in skipped]
        return {"skipped": reasons, "uncaptioned": sum(caption_file(picture) is None for picture in pictures)}

    def edit(self, edits: Iterable[Edit]) -> Report:
        """Change captions in bulk; `undo` reverts it. Raises LoraTrainError."""
        from lora_train.captions.journal import edit_captions

        return edit_captions(self._there(), edits, self.journal)

    def undo(self) -> Report:
        """Revert the last change of captions. Raises LoraTrainError when there is none."""
        from lora_train.captions.journal import undo

        return undo(self._there(), self.journal)

    def undoable(self) -> str:
        """What `undo` would revert; "" when there is nothing."""
        from lora_train.captions.journal import newest_edit

        newest = newest_edit(self.pictures, self.journal)
        return newest.name if newest else ""

    def write_beside(self) -> int:
        """Write the prepared copy's captions, with all lines, beside the person's own pictures. Returns how many
        changed.

        Of several pictures made from one file the first counts. A caption file that is replaced is kept as `.bak`; a
        link out of the folders that may be used is left alone.
        """
        from lora_train.captions.store import store_lines
        from lora_train.pictures.captions import read_lines
        from lora_train.pictures.neighbours import caption_files

        written = 0
        for source, lines in self._captions_by_source():
            linked = any(leads_out(file, self._may_read) for file in caption_files(source))
            if source.is_file() and not linked and read_lines(source) != lines:
                store_lines(source, lines, recaption=True, backup=True)
                written += 1
        return written

    def _captions_by_source(self) -> Iterator[tuple[Path, list[str]]]:
        """The lines of the caption for each input that has one; inputs that would share a caption file count once."""
        from lora_train.pictures.captions import read_lines

        done: set[Path] = set()
        for line in self._lines.values():
            source = self._source(line)
            output = self._output(line)
            lines = read_lines(output) if output else None
            if lines is not None and source.with_suffix("") not in done:
                done.add(source.with_suffix(""))
                yield source, lines

    def _there(self) -> Path:
        if not self.pictures.is_dir():
            raise LoraTrainError("no picture is kept, so there are no captions.", self.id, "Keep some pictures.")
        return self.pictures

    def to_dict(self) -> dict[str, Any]:
        """What the page shows above the pictures."""
        made = self._report
        return {
            "id": self.id,
            "name": self.folder.name or str(self.folder),
            "folder": str(self.folder),
            "pictures_folder": str(self.pictures),
            "report": str(self.work / "report.json"),
            "tag": self.tag,
            "options": self.options.to_dict() if "options" in made else None,
            "detectors": made.get("detectors", {}),
            "notes": self.notes,
            "counts": self.counts(),
            "advice": [{"rule": one.rule, "text": one.text, "button": one.button} for one in self.advice()],
            "undo": self.undoable(),
        }


def large_jpeg(path: Path) -> bytes:
    """The picture as JPEG, its longest side at most LARGE pixels. Raises Unknown when it cannot be read."""
    from io import BytesIO

    from lora_train.pictures.opening import BrokenPicture, load_picture

    try:
        picture = load_picture(path, LARGE)
    except (BrokenPicture, OSError) as error:
        raise Unknown(f"the picture cannot be shown: {error}.", path.name) from error
    picture.thumbnail((LARGE, LARGE))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _file_below(root: Path, name: str) -> Path | None:
    """The file of that name below `root`; None when there is none, or it is elsewhere."""
    path = root / name
    return path if name and path.is_file() and path.resolve().is_relative_to(root.resolve()) else None


def _decided(line: dict[str, Any], keep: bool | None) -> dict[str, Any]:
    """A line of the report with a person's decision since it was written."""
    from lora_train.prepare.verdicts import LEFT_OUT

    keep = keep if line["can_be_kept"] else None
    if keep == line["overruled"]:
        return line | {"pending": False}
    changed: dict[str, Any] = {"overruled": keep, "pending": True}
    if keep is True:
        changed |= {"outcome": "kept", "rule": "", "reason": ""}
    elif keep is False:
        changed |= {"outcome": "rejected", "rule": LEFT_OUT.rule, "reason": LEFT_OUT.reason}
    return line | changed
