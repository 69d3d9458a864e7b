"""The base model that pictures are made with where the person names none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.atomic import write_json
from lora_train.demo.files import GUIDANCE, base_folder
from lora_train.errors import LoraTrainError
from lora_train.runs.folder import RunFolder, list_runs

if TYPE_CHECKING:
    from lora_train.hosts.base import Host

USED = "last-base.json"
"""In the data folder: the base that pictures were last made with."""


@dataclass(frozen=True)
class ChosenBase:
    """An existing base model, and why it was chosen."""

    path: Path
    why: str


def base_for(loras: Sequence[Path], host: Host) -> ChosenBase | None:
    """The base that the first of `loras` names, else the one used last, else the host's (the demo's, standalone).

    Only a base that exists and that a person has trained or made pictures with here, or that the host lists; what a
    file from elsewhere names is never opened for that reason alone. None where there is no base at all.
    """
    unknown = []
    for lora in loras:
        path, name = _named_by(lora, host)
        if path is not None:
            return ChosenBase(path, f"{lora.stem} was trained on it")
        unknown += [f"{lora.stem} was trained on {name}, which is not known here"] if name else []
    last, current = _last_used(host), host.current_checkpoint()
    if last is not None:
        return ChosenBase(last, "; ".join(["used last", *unknown]))
    return None if current is None else ChosenBase(current, "; ".join([_whose(current), *unknown]))


def remember_base(path: Path, host: Host) -> None:
    """Record that pictures were made with this base; a failure is ignored."""
    try:
        write_json(host.data_dir() / USED, {"path": str(path.absolute())})
    except LoraTrainError:
        return


def usual_guidance(base: Path) -> float | None:
    """The guidance that a base draws best with, where it differs from its family's (the demo's); else None."""
    try:
        return GUIDANCE if base.expanduser().samefile(base_folder()) else None
    except (OSError, RuntimeError, ValueError):
        return None


def _whose(path: Path) -> str:
    return "the demo's" if usual_guidance(path) is not None else "the one in use"


def _named_by(lora: Path, host: Host) -> tuple[Path | None, str]:
    """The base that a LoRA was trained on, if it is there, and the name that its file has for it ("" for none)."""
    from lora_train.lorafile.reading import file_metadata
    from lora_train.models.hub import local_model

    try:
        metadata = file_metadata(lora)
    except (LoraTrainError, OSError):
        return None, ""
    session = metadata.get("ss_session_id", "")
    runs = host.data_dir() / "runs"
    if session not in ("", "..") and (runs / session).parent == runs:
        path = _base_of(RunFolder(runs / session))
        if path is not None:
            return path, path.name
    named = metadata.get("ss_sd_model_name", "").strip()
    name = named.replace("\\", "/").rpartition("/")[2]
    if not name or name == "None":
        return None, ""
    known = [path for path in _known(host) if name in (path.name, path.stem)]
    cached = Path(local_model(named)) if named.count("/") == 1 else None  # from the hub, by its id
    if cached is not None and cached.is_absolute() and cached.exists():
        known.append(cached)
    return (known[0] if known else None), named


def _known(host: Host) -> Iterator[Path]:
    """Existing base models: used here before, the newest first, then the host's."""
    yield from _used(host)
    yield from (path for path in host.checkpoints() if path.exists())


def _last_used(host: Host) -> Path | None:
    return next(iter(_used(host)), None)


def _used(host: Host) -> Iterable[Path]:
    """The bases of trainings and of the last pictures, the newest first."""
    dated: list[tuple[float, Path]] = []
    note = host.data_dir() / USED
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        drawn_with = Path(str(content["path"]))
        dated += [(note.stat().st_mtime, drawn_with)] if drawn_with.exists() else []
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for run in list_runs(host.data_dir() / "runs"):
        path = _base_of(run)
        dated += [] if path is None else [(run.changed, path)]
    return [path for _, path in sorted(dated, key=lambda one: one[0], reverse=True)]


def _base_of(run: RunFolder) -> Path | None:
    """The base of a run, if it is still there."""
    try:
        path = Path(run.read()["config"]["model"]["path"]).expanduser()
        return path.absolute() if path.exists() else None
    except (KeyError, TypeError, OSError, RuntimeError, ValueError):
        return None
