"""Prepares datasets in the background, for the page and the routes; beside a training where possible.

One preparation at a time. While one is running no training starts. A preparation starts beside a training only when
that has already read its pictures and uses another dataset, and when no model of the host is wanted: the training has
the GPU.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lora_train.config import PrepareOptions, RunConfig, problems
from lora_train.datasets.captioning import captioning_problems
from lora_train.datasets.dataset import Dataset
from lora_train.datasets.work import alone_in, services_of, work_folder
from lora_train.errors import LoraTrainError, Problem, Stopped, Unknown
from lora_train.hosts.allowing import allowed, noting
from lora_train.lock import RunLock, is_held

if TYPE_CHECKING:
    from lora_train.hosts.base import Host
    from lora_train.prepare import Services

log = logging.getLogger("lora_train")

PREPARED = "prepared"
MAX_LISTED = 50
MODELS = {"upscale": ("upscale",), "restore": ("restore",), "interrogate": ("caption", "tags")}
"""Operations done by a model, and their names among the services."""
DOING = {"upscale": "Upscaling", "restore": "Restoring faces"}
STAGES = {"pictures": "Checking pictures", "captions": "Captioning", "tags": "Listing tags"}
"""The names of the preparation's stages on the page; it does not count the services of DOING itself."""


@dataclass
class Job:
    """A preparation that is running or has ended; `done` of `total` pictures, 0 where the total is not known."""

    work: Path
    folder: Path
    options: PrepareOptions
    tag: str = ""
    state: str = "preparing"
    stage: str = STAGES["pictures"]
    done: int = 0
    total: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    again: bool = False
    stop: threading.Event = field(default_factory=threading.Event)

    def begin(self, stage: str) -> None:
        """Set what is counted from now on."""
        self.stage, self.done, self.total = STAGES.get(stage, stage), 0, 0

    def progress(self, done: int, total: int) -> None:
        """Set how far it is."""
        self.done, self.total = done, total

    def to_dict(self) -> dict[str, Any]:
        """Its state, as the page shows it."""
        return {
            "state": self.state,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "problems": [problem.to_dict() for problem in self.problems],
            "notes": list(self.notes),
        }


class Training(Protocol):
    """A running training, as far as a preparation beside it needs to know."""

    @property
    def id(self) -> str:
        """The run's name."""
        ...

    def read(self) -> dict[str, Any]:
        """Its state: "state" and more."""
        ...


class Datasets:
    """All datasets of a host, and the thread that prepares one.

    `no_start` is a context within which no training starts; it returns the running one, or None.
    """

    def __init__(self, host: Host, no_start: Callable[[], AbstractContextManager[Training | None]]) -> None:
        self.host = host
        """The host of the pictures and models."""
        self._no_start = no_start
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._thread: threading.Thread | None = None
        self._known: dict[Path, tuple[tuple[int, int], Dataset]] = {}

    @property
    def root(self) -> Path:
        """The folder of all datasets."""
        return self.host.data_dir() / PREPARED

    def all(self) -> list[Dataset]:
        """All datasets that may be seen, the most recently prepared first."""
        reports = sorted(self.root.glob("*/report.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [dataset for report in reports[:MAX_LISTED] if (dataset := self._read(report.parent)) is not None]

    def get(self, id: str) -> Dataset:
        """A dataset. Raises Unknown, also for one that may not be seen."""
        work = next((path for path in self.root.glob("*/report.json") if path.parent.name == id), None)
        dataset = self._read(work.parent) if work is not None else None
        if dataset is None:
            raise Unknown("there is no such dataset.", id, "Prepare its folder.")
        return dataset

    def _read(self, work: Path) -> Dataset | None:
        """The dataset, read again when its report changed; None for a damaged one, or outside what may be read."""
        try:
            stat = (work / "report.json").stat()
            changed = stat.st_mtime_ns, stat.st_size
            if work not in self._known or self._known[work][0] != changed:
                self._known[work] = changed, Dataset(work, self.host.data_dir(), self.host.may_read)
        except (OSError, LoraTrainError):
            return None
        dataset = self._known[work][1]
        return dataset if self.host.may_read(dataset.folder) else None

    def status(self, id: str) -> dict[str, Any]:
        """Everything about a dataset but its pictures: state, progress, counts; also of one that is not finished yet.

        "version" changes when its pictures have to be read again. Raises Unknown.
        """
        job = self._job if self._job is not None and self._job.work.name == id else None
        try:
            dataset = self.get(id)
            about = dataset.to_dict() | {"version": str(self._known[dataset.work][0][0])}
        except Unknown:
            if job is None:
                raise
            about = {"id": id, "name": job.folder.name, "folder": str(job.folder), "version": ""}
        about["job"] = job.to_dict() if job is not None else None
        about["preparing"] = job is not None and job.state == "preparing"
        return about

    def start(self, folder: str, options: PrepareOptions, tag: str = "") -> str:
        """Prepare a folder in the background; returns the dataset's id at once. `tag` goes into new captions.

        Without any operation the originals are checked as they are. Raises LoraTrainError with all problems, or
        when it cannot start now.
        """
        if not options.operations:
            options = replace(options, operations=("original",))
        found = [p for p in problems(RunConfig(prepare=options)) if p.where.startswith("prepare.")]
        found += captioning_problems(options, self.host)
        source = Path()
        with noting(found, "data.folder"):
            source = self._source(folder)
        if found:
            raise LoraTrainError.of(found)
        return self._begin(Job(work_folder(source, self.host), source, options, tag.strip()))

    def _source(self, folder: str, where: str = "data.folder") -> Path:
        """The folder, where it may be prepared. Raises LoraTrainError that names `where`."""
        from lora_train.data.scan import require_folder
        from lora_train.data.shards import SHARDS, without_shards

        if not folder.strip():
            raise LoraTrainError("no folder of pictures is given.", "data.folder", "Give one.")
        folder = without_shards(folder.strip(), self.host.data_dir() / SHARDS, self.host.may_read)
        source = allowed(folder.strip(), self.host, where)
        try:
            require_folder(source)
        except LoraTrainError as error:
            raise LoraTrainError(error.problems[0].what, where, error.problems[0].fix) from error
        return source.resolve()

    def _again(self, dataset: Dataset, options: PrepareOptions) -> None:
        """Prepare a dataset once more; what is wrong with its folder names the folder, which nobody has typed now."""
        folder = str(dataset.folder)
        self._begin(Job(dataset.work, self._source(folder, folder), options, dataset.tag))

    def apply(self, id: str) -> None:
        """Prepare a dataset again with its own options, which applies a person's decisions. Raises LoraTrainError."""
        dataset = self.get(id)
        with self._lock:
            job = self._running(id)
            if job is not None:
                job.again = True
                return
        self._again(dataset, dataset.options)

    def loosen(self, id: str, rule: str) -> None:
        """Prepare a dataset again with a check loosened, as its advice says. Raises LoraTrainError."""
        dataset = self.get(id)
        options = next((one.options for one in dataset.advice() if one.rule == rule), None)
        if options is None:
            raise LoraTrainError(f"there is nothing to loosen for {rule!r}.", id, "Load the page again.")
        self._again(dataset, options)

    def overrule(self, id: str, key: str, keep: bool | None) -> str:
        """Decide on a picture (None: as the rules say) and apply the decision in the background.

        Returns why it is not applied now, "" when it is; the decision is stored in any case. Raises
        LoraTrainError when there is no such picture, or nothing to keep.
        """
        from lora_train.prepare import overrule

        dataset = self.get(id)
        dataset.line(key)
        with self._lock:
            overrule(dataset.work, key, keep)
        try:
            self.apply(id)
        except LoraTrainError as error:
            return str(error)
        return ""

    def stop(self, id: str = "") -> bool:
        """Ask the preparation of a dataset (or any) to stop; what is done is kept. False when none is running."""
        with self._lock:
            job = self._running(id)
            if job is None:
                return False
            job.again = False
            job.stop.set()
            return True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the current preparation to end; True when none is running any more."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.busy

    @property
    def busy(self) -> bool:
        """Whether a preparation is running in this process."""
        return self._running() is not None

    def _running(self, id: str = "") -> Job | None:
        """The running preparation; with `id` only if it is that dataset's."""
        job = self._job
        return job if job is not None and job.state == "preparing" and id in ("", job.work.name) else None

    @property
    def held(self) -> bool:
        """Whether a preparation is running, in this process or another."""
        return is_held(self.root)

    def _begin(self, job: Job) -> str:
        services = services_of(self.host, job.options)
        with self._no_start() as run, self._lock:
            if run is not None:
                _require_room(run, job, services)
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                what = f"cannot make a folder for what is prepared: {error.strerror}."
                raise LoraTrainError(what, str(self.root), "Allow writing there.") from error
            lock = RunLock(self.root)
            try:
                lock.acquire()
            except LoraTrainError as error:
                raise LoraTrainError(
                    "pictures are being prepared already.", job.folder.name, "Wait for it, or stop it first."
                ) from error
            self._job = job
            self._thread = threading.Thread(
                target=self._work, args=(job, services, lock), name=f"lora-train prepares {job.work.name}", daemon=True
            )
            self._thread.start()
        return job.work.name

    def _work(self, job: Job, services: Services, lock: RunLock) -> None:
        while True:
            state, found = _prepare(job, services)
            with self._lock:
                if not job.again or state != "prepared":
                    lock.release()  # before the state says so, on which a caller may start a training
                    job.problems, job.state = found, state
                    return
                job.again = False


def _prepare(job: Job, services: Services) -> tuple[str, list[Problem]]:
    """Prepare once. Returns the state that it ended in, with what is wrong."""
    from lora_train.prepare import prepare

    job.notes.clear()
    watched, note = _watched(services, job), job.notes.append
    try:
        with alone_in(job.work):
            prepare(job.folder, job.options, job.work, watched, job.progress, job.stop.is_set, job.tag, job.begin, note)
    except Stopped:
        return "stopped", []
    except LoraTrainError as error:
        return "failed", error.problems
    except Exception as error:
        log.exception("preparing %s failed", job.folder)
        what = f"unexpected error: {type(error).__name__}: {error}."
        return "failed", [Problem(what, str(job.folder), "The log has the details; please report it with them.")]
    return "prepared", []


def _watched(services: Services, job: Job) -> Services:
    """The host's services, reporting to the job how many pictures they have done."""

    def watched(name: str, call: Callable[[Iterable[Any]], Iterator[Any]]) -> Callable[[Iterable[Any]], Iterator[Any]]:
        def counting(pictures: Iterable[Any]) -> Iterator[Any]:
            job.begin(DOING[name])
            for number, one in enumerate(call(pictures), 1):
                job.progress(number, 0)
                yield one

        return counting

    calls = {name: call for name in DOING if (call := getattr(services, name)) is not None}
    counted: dict[str, Any] = {name: watched(name, call) for name, call in calls.items()}
    return replace(services, **counted)


def _require_room(run: Training, job: Job, services: Services) -> None:
    """Raise LoraTrainError when a preparation cannot run beside this training."""
    about, options = run.read(), job.options
    if about.get("state") == "preparing":
        raise LoraTrainError(
            "a training is preparing its pictures.", run.id, "Wait until it trains, or stop it; nothing is lost."
        )
    folders = [value for value in about.get("config", {}).get("data", {}).values() if isinstance(value, str) and value]
    if any(
        Path(folder).is_relative_to(job.work) for folder in folders
    ):  # its masks, and the picture of its card, are read later
        raise LoraTrainError(
            "a training uses the pictures of this dataset.", run.id, "Wait for it, or stop it; nothing is lost."
        )
    wanted = [
        name
        for name, used in MODELS.items()
        if name in options.operations and any(getattr(services, service) for service in used)
    ]
    if wanted:
        raise LoraTrainError(
            f"a training has the GPU, which {', '.join(wanted)} would need.",
            run.id,
            f"Wait for it, stop it, or switch off {', '.join(wanted)}.",
        )
