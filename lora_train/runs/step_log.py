"""`log.csv` in a run's folder: a row for each step, in a form that spreadsheets read."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_train.atomic import write_bytes
from lora_train.errors import LoraTrainError

FILE = "log.csv"
FIRST = ("step", "epoch", "loss", "smoothed", "grad_norm")
"""The first columns; learning rates and other numbers follow, in the order in which they come up."""
_NOT_OF_THE_STEP = ("of", "seconds_left", "kind")

log = logging.getLogger("lora_train")


def numbers_of(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event "step", learning rates as "lr/NAME"; `time` is in seconds since 1970."""
    found: dict[str, float] = {}
    for name, value in event.items():
        if isinstance(value, Mapping):
            kind = "lr" if name == "learning_rates" else name
            found |= {f"{kind}/{one}": number for one, number in value.items() if _is_number(number)}
        elif _is_number(value) and name not in _NOT_OF_THE_STEP:
            found[name] = value
    return found


class StepLog:
    """Writes the file; a failure is logged once and never raised."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._columns = self._read()[0]
        self._failed = False

    def resumed(self, step: int) -> None:
        """Leave out the rows after `step`: those steps were lost, and are done again."""
        columns, rows = self._read()
        kept = [row for row in rows if 0 < _step(row) <= step]
        if rows or columns:
            self._rewrite(columns, kept)

    def step(self, numbers: Mapping[str, float]) -> None:
        """Append a row. A number that was not there before gets a column, which is empty above."""
        missing = [name for name in (*FIRST, *numbers) if name in numbers and name not in self._columns]
        if missing:
            _, rows = self._read()
            self._rewrite([*self._columns, *dict.fromkeys(missing)], rows)
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerow(numbers)
        except OSError as error:
            self._fail(error)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Columns and rows; a row that a crash left half-written is left out."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return [], []
        whole = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(whole))
        columns = list(reader.fieldnames or ())
        return columns, [row for row in reader if len([v for v in row.values() if v is not None]) == len(columns)]

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        try:
            write_bytes(self._path, text.getvalue().encode())
        except LoraTrainError as error:
            self._fail(error)
        self._columns = columns

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.warning("%s is not written: %s", self._path, error)


def _step(row: Mapping[str, str]) -> int:
    try:
        return int(row.get("step", ""))
    except ValueError:
        return -1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
