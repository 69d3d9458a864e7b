"""The report on every picture, and a person's decisions that overrule it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_train.atomic import write_json
from lora_train.errors import LoraTrainError
from lora_train.prepare.records import Record, ViewRecord

VERSION = 1
REPORT = "report.json"
OVERRULES = "overrules.json"


@dataclass(frozen=True)
class Verdict:
    """Kept, or rejected by a rule ("blur") for a reason in plain words."""

    kept: bool
    rule: str = ""
    reason: str = ""


@dataclass
class Entry:
    """One line of the report: a view, or an input without any."""

    key: str
    path: Path
    relative: Path
    record: Record
    view: ViewRecord | None
    verdict: Verdict
    overruled: bool | None = None
    similarity: float | None = None
    twin: str = ""
    """The key of the kept entry that it is compared to in `similarity`."""
    output: str = ""
    """Like the mask and the thumbnail: a path relative to the work folder, "" where there is none."""
    mask: str = ""
    thumbnail: str = ""
    text: str = ""
    """The caption as a whole; `caption` and `tags` are its parts, where a captioner made it."""
    caption: str = ""
    tags: list[str] = field(default_factory=list)

    @property
    def possible(self) -> bool:
        """Whether a person could decide to keep it."""
        return self.view is not None and self.view.possible

    def to_dict(self) -> dict[str, Any]:
        """The line as JSON data."""
        view, outcome = self.view, "kept" if self.verdict.kept else "rejected"
        scores = dict(view.scores) if view else {}
        if self.similarity is not None:
            scores["similar"] = self.similarity
        return {
            "key": self.key,
            "file": self.relative.as_posix(),
            "operation": view.operation if view else "",
            "outcome": outcome,
            "rule": self.verdict.rule,
            "reason": self.verdict.reason,
            "overruled": self.overruled,
            "can_be_kept": self.possible,
            "scores": {name: round(score, 6) for name, score in scores.items()},
            "size": list(view.size if view and view.possible else self.record.size),
            "source_size": list(self.record.size),
            "twin": self.twin,
            "box": view.box if view else None,
            "detector": view.detector if view else "",
            "confidence": view.confidence if view else None,
            "thumbnail": self.thumbnail,
            "output": self.output,
            "mask": self.mask,
            "caption": self.text,
        }


def entry_key(relative: Path, content: str, operation: str) -> str:
    """Identifies a view of a file at a path; when the file is edited or moved, decisions about it are forgotten."""
    return (
        f"{hashlib.sha256(f'{relative.as_posix()} {content}'.encode('utf-8', 'replace')).hexdigest()[:24]}-{operation}"
    )


def summarise(entries: list[Entry]) -> dict[str, Any]:
    """Counts: inputs, views, kept, rejected, and the rejected by reason."""
    kept = sum(entry.verdict.kept for entry in entries)
    reasons = Counter(entry.verdict.rule for entry in entries if not entry.verdict.kept)
    return {
        "files": len({entry.relative for entry in entries}),
        "kept": kept,
        "rejected": len(entries) - kept,
        "reasons": dict(reasons.most_common()),
    }


def summary_line(summary: dict[str, Any]) -> str:
    """The counts in one line for the person."""
    text = f"{summary['files']} files: {summary['kept']} pictures kept, {summary['rejected']} rejected"
    reasons = ", ".join(f"{count} {rule}" for rule, count in summary["reasons"].items())
    return f"{text} ({reasons})" if reasons else text


def write_report(work: Path, entries: list[Entry], about: dict[str, Any]) -> None:
    """Write the report; `about` precedes the pictures."""
    content = {"version": VERSION, **about, "summary": summarise(entries), "pictures": [e.to_dict() for e in entries]}
    write_json(work / REPORT, content)


def overrule(work: Path, key: str, keep: bool | None) -> None:
    """Store a person's decision on a picture of the report: keep it, leave it out, or None: as the rules say.

    The next `prepare` in `work` applies it. Raises LoraTrainError when there is no such picture, or nothing to keep.
    """
    try:
        pictures = json.loads((work / REPORT).read_text(encoding="utf-8"))["pictures"]
    except (OSError, ValueError, KeyError) as error:
        raise LoraTrainError("there is no report to decide on.", str(work / REPORT), "Prepare the pictures.") from error
    line = next((line for line in pictures if line["key"] == key), None)
    if line is None:
        raise LoraTrainError(f"there is no picture {key!r} in the report.", str(work / REPORT), "Open it again.")
    if keep and not line["can_be_kept"]:
        raise LoraTrainError(f"there is nothing to keep: {line['reason']}.", line["file"], "Replace the file.")
    decided = read_overrules(work)
    decided.pop(key, None)
    if keep is not None:
        decided[key] = keep
    write_json(work / OVERRULES, decided)


def read_overrules(work: Path) -> dict[str, bool]:
    """The decisions, by key; none where the file is absent or damaged."""
    try:
        decided = json.loads((work / OVERRULES).read_text(encoding="utf-8"))
        return {str(key): bool(keep) for key, keep in decided.items()}
    except (OSError, ValueError, AttributeError):
        return {}
