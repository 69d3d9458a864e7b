"""Whether and how a run continues: from its saved state, or from the start where none was saved yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import RunConfig
from lora_train.data.scan import Manifest
from lora_train.errors import LoraTrainError
from lora_train.runs.check import check_run, output_path
from lora_train.runs.folder import RunFolder, list_runs
from lora_train.runs.stages import Stages

if TYPE_CHECKING:
    from lora_train.hosts.base import Host

KEPT_STATES = 3
"""How many of the newest finished runs keep their last state, which is three times the size of the LoRA in fp32."""


def check_resume(folder: RunFolder, host: Host, steps: int | None = None) -> tuple[RunConfig, Manifest, Stages]:
    """What `resume_training` needs, checked; `steps` are more than before. Raises LoraTrainError."""
    content = folder.read()
    if not isinstance(content.get("config"), dict):
        raise LoraTrainError("the run's own file is damaged.", str(folder.path / "run.json"), "Start a new run.")
    if folder.going_on:
        raise LoraTrainError("this run is already in progress, in this program or another.", folder.id, "Wait for it.")
    config = RunConfig.from_dict(content["config"])
    if content.get("state") == "finished":
        _require_more(folder, steps)
    if steps is not None:
        _require_steps_left(folder, steps)
        config = replace(config, train=replace(config.train, max_train_steps=steps, max_train_epochs=0))
    own = content.get("stages")
    stages = Stages(**{name: bool(own.get(name, True)) for name in ("process", "latents", "train")} if own else {})
    return config, check_run(config, host, stages, own_result(folder)), stages


def own_result(folder: RunFolder) -> Path | None:
    """The LoRA that this run itself wrote when it ended before, unless another file has its name now. One that was
    killed behind the saving may not have noted it."""
    from lora_train.lorafile.metadata import session_of

    content = folder.read()
    places = [Path(content["result"])] if content.get("result") else []
    if isinstance(content.get("config"), dict):
        places.append(output_path(RunConfig.from_dict(content["config"])))
    return next((path for path in places if session_of(path) == folder.id), None)


def clear_halves(folder: RunFolder) -> None:
    """Remove the files that a killed process had not written to their ends; what is whole has its own name."""
    for path in folder.path.rglob(".*.part"):
        path.unlink(missing_ok=True)


def forget_states(runs: Path) -> None:
    """Remove the last states of all but the newest finished runs."""
    finished = [run for run in list_runs(runs) if run.finished_state_path.is_file()]
    finished.sort(key=lambda run: run.finished_state_path.stat().st_mtime_ns, reverse=True)
    for run in finished[KEPT_STATES:]:
        run.finished_state_path.unlink(missing_ok=True)


def _require_more(folder: RunFolder, steps: int | None) -> None:
    """Raise LoraTrainError for a finished run, with how it can be continued, unless `steps` does so."""
    result = folder.read().get("result")
    if not result:
        raise LoraTrainError("this run is finished; it prepared and did not train.", folder.id, "Start a new run.")
    fix = f"Continue it in a new run: network.network_weights {result}"
    if folder.saved_state is None:
        raise LoraTrainError("this run is finished, and its last state is no longer kept.", folder.id, fix)
    if steps is None:
        done = folder.read().get("steps_done", 0)
        raise LoraTrainError(
            f"this run is finished, after {done} steps.",
            folder.id,
            f"{fix}, or train it longer: resume {folder.id} --steps N, more than {done}.",
        )


def _require_steps_left(folder: RunFolder, steps: int) -> None:
    from lora_train.train.state import read_numbers

    numbers = read_numbers(folder.saved_state) if folder.saved_state is not None else None
    done = int(numbers.get("step", 0)) if numbers else 0
    if steps <= done:
        what = f"{done} steps of this run are already done."
        raise LoraTrainError(what, "train.max_train_steps", f"Give more than that: {done + 1} or more.")
