"""What is known about each picture, stored so that a later run processes only what changed.

An entry is a folder named by the hash of the file's content and of the options that its pictures depend on. It holds
`record.json` and the pictures made. Thresholds are not part of the name: scores are stored, and verdicts are computed
from them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lora_train.atomic import write_json
from lora_train.prepare.base import Plan
from lora_train.prepare.operations import KINDS, active

VERSION = 3
RECORD = "record.json"


@dataclass
class ViewRecord:
    """What is known about one view; `rule` and `reason` are set where it cannot be made."""

    operation: str
    rule: str = ""
    reason: str = ""
    size: tuple[int, int] = (0, 0)
    box: list[int] | None = None
    detector: str = ""
    confidence: float | None = None
    problem: tuple[str, str] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    signature: str = ""
    file: str = ""
    """The finished picture in the entry's folder; "" while there is none."""
    crop: str = ""
    """The cropped picture that the host's services have yet to process."""
    mask: str = ""

    @property
    def possible(self) -> bool:
        """Whether there is a picture that could be kept."""
        return not self.rule


@dataclass
class Record:
    """What is known about one input; `broken` says why it cannot be read."""

    content: str
    size: tuple[int, int] = (0, 0)
    broken: str = ""
    moving: bool = False
    """Whether the file holds other frames or pages, which are not used."""
    plain: bool = False
    """Whether it is of one colour, with transparent parts in the background colour."""
    thumbnails: dict[str, str] = field(default_factory=dict)
    views: list[ViewRecord] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """The inverse of `to_dict`. Raises ValueError, TypeError or KeyError on anything else."""
        data = dict(data)
        if data.pop("version") != VERSION:
            raise ValueError("another version")
        views = [ViewRecord(**{**view, "size": tuple(view["size"])}) for view in data.pop("views")]
        return cls(**{**data, "size": tuple(data["size"]), "views": views})


class Store:
    """All entries of one plan, below one folder."""

    def __init__(self, plan: Plan) -> None:
        self._root = Path(plan.store)
        self._settings = settings_hash(plan)

    def folder(self, content: str) -> Path:
        """The folder of a file's entry, by the hash of its content."""
        name = hashlib.sha256(f"{content} {self._settings}".encode()).hexdigest()[:32]
        return self._root / name[:2] / name

    def read(self, content: str) -> Record | None:
        """The record of an entry; None where there is none, or a damaged one."""
        folder = self.folder(content)
        try:
            record = Record.from_dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return record if record.content == content else None

    def write(self, record: Record) -> None:
        """Write an entry's record; every file it names must already exist."""
        write_json(self.folder(record.content) / RECORD, record.to_dict())


def settings_hash(plan: Plan) -> str:
    """A hash of everything that an entry depends on besides the input."""
    operations = {name: getattr(one, "options", ()) for kind in KINDS for name, one in active(kind, plan).items()}
    making = {
        "version": VERSION,
        "target": plan.target,
        "background": plan.options.background,
        "detectors": plan.detectors,
        "operations": {
            name: [getattr(plan.options, option) for option in options] for name, options in operations.items()
        },
    }
    return hashlib.sha256(json.dumps(making, sort_keys=True).encode()).hexdigest()
