"""The preparing stage of a run: the operations on the pictures, with the host's models, and what comes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import PrepareOptions, RunConfig
from lora_train.data.scan import Manifest, Rejected, scan
from lora_train.errors import LoraTrainError, Stopped
from lora_train.runs.check import DEFAULT_REPEATS
from lora_train.runs.folder import RunFolder

if TYPE_CHECKING:
    from lora_train.data.prepare import Prepared, Services
    from lora_train.hosts.base import Host


def work_folder(folder: Path, host: Host) -> Path:
    """Where the prepared pictures of an input folder are kept: the same folder finds its earlier work again."""
    source = folder.expanduser().resolve()
    digest = hashlib.sha256(str(source).encode()).hexdigest()[:12]
    return host.data_dir() / "prepared" / f"{source.name or 'pictures'}-{digest}"


def prepare_pictures(folder: RunFolder, config: RunConfig, host: Host, stopped: Callable[[], bool]) -> Manifest:
    """Do the operations and scan what came of them; outcome and reasons go into the run's events.

    Raises LoraTrainError when nothing is left, or when the host fails; Stopped.
    """
    from lora_train.data.prepare import prepare

    def progress(done: int, total: int) -> None:
        folder.event("prepare", done=done, total=total)
        host.report_progress(folder.id, done, total, "Preparing pictures")
        if stopped():
            raise Stopped

    source = Path(config.data.folder).expanduser()
    prepared = prepare(
        source,
        config.prepare,
        work_folder(Path(config.data.folder), host),
        services_of(host, config.prepare),
        progress,
        stopped,
    )
    for text in (*prepared.notes, prepared.line()):
        folder.event("note", text=text)
    folder.update(report=str(prepared.report))
    manifest = _scan(config, prepared.folder)
    manifest.rejected += _rejected(prepared)
    return manifest


def prepared_before(config: RunConfig, host: Host) -> Manifest:
    """What an earlier run prepared. Raises LoraTrainError when there is nothing."""
    pictures = work_folder(Path(config.data.folder), host) / "pictures"
    if not pictures.is_dir():
        raise LoraTrainError(
            "the pictures have not been prepared.", config.data.folder, "Run once without --noprocess."
        )
    return _scan(config, next(iter(sorted(pictures.iterdir())), pictures))


def _scan(config: RunConfig, pictures: Path) -> Manifest:
    return scan(pictures, config.data.tag, config.data.repeats or DEFAULT_REPEATS)


def services_of(host: Host, options: PrepareOptions) -> Services:
    """The host's models, as the preparation calls them; a host without one raises when it is first used."""
    from lora_train.data.prepare import Services

    alone = host.name == "standalone"  # nothing here upscales or restores: the preparation says so once
    return Services(
        upscale=None if alone else lambda p: host.upscale(p, 2, options.upscaler),
        restore=None if alone else lambda p: host.restore_faces(p, options.restore_weight),
        caption=lambda p: host.caption(p, "blip"),
    )


def _rejected(prepared: Prepared) -> list[Rejected]:
    """The report's rejected pictures, in its own words."""
    if prepared.report is None:
        return []
    entries = json.loads(prepared.report.read_text(encoding="utf-8")).get("pictures", [])
    return [Rejected(Path(e["file"]), e["reason"]) for e in entries if e["outcome"] == "rejected"]
