"""`lora-train demo` from its first line to its last: prepares, trains, draws, and says what to do next.

It can be stopped anywhere, and the same command continues from there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import RunConfig
from lora_train.console import own_command
from lora_train.errors import LoraTrainError
from lora_train.runs.demo import COMMENT, NAME, Progress, before_and_after, demo_config, write_pictures

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.hosts.base import Host
    from lora_train.runs.folder import RunFolder

OUT = Path("demo/out")
SHEET, LOSS = "contact-sheet.png", "loss.png"
ABORTED = 130


def run_demo(out: Path = OUT) -> int:
    """Train, draw the contact sheet and the loss plot into `out`, and print where everything is and what to do next.

    The LoRA goes where *Generate* and `generate` look for LoRAs. Returns the exit code; raises LoraTrainError.
    """
    again = own_command("demo", *([] if out == OUT else ["--out", str(out)]))
    try:
        return _run(out.absolute(), again)
    except KeyboardInterrupt:
        print(f"\nStopped. To continue the demo:  {again}", file=sys.stderr)
        return ABORTED


def _run(out: Path, again: str) -> int:
    from lora_train.hosts.standalone import StandaloneHost

    host = StandaloneHost()
    name = free_name(host.lora_dir())
    lora = host.lora_dir() / f"{name}.safetensors"
    config = demo_config(out)
    config = replace(config, save=replace(config.save, output_dir=str(lora.parent), output_name=name))
    before = _newest_of(config, host)
    if before is not None and before.going_on:
        raise LoraTrainError("a demo is already training, in another window.", before.id, "Wait for it.")
    _require_own(out)
    if name != NAME:
        print(f"{lora.with_stem(NAME)} is your own LoRA and stays; the demo's is called {name}.")
    if before is not None and _only_to_draw(before, lora, out):
        print(f"The LoRA is already trained: {lora}")
    else:
        code = _train(config, host, before, out, lora, again)
        if code:
            return code
        before = _newest_of(config, host)
    _show(before, lora, out)
    return 0


def free_name(folder: Path) -> str:
    """The demo's name for its LoRA in `folder`: the first that is free, or an earlier demo's."""
    names = (f"{NAME}{ending}" for ending in ("", "-demo", *(f"-demo-{number}" for number in range(2, 1000))))
    return next(name for name in names if _free_or_ours(folder / f"{name}.safetensors"))


def _free_or_ours(path: Path) -> bool:
    from lora_train.lorafile.reading import file_metadata

    try:
        return not path.exists() or (path.is_file() and file_metadata(path).get("ss_training_comment") == COMMENT)
    except LoraTrainError:
        return False


def _require_own(out: Path) -> None:
    """Raise LoraTrainError where the pictures that the demo would replace are not a demo's."""
    theirs = [name for name in (SHEET, LOSS) if (out / name).exists()]
    if theirs and not (out / "pictures").is_dir():
        raise LoraTrainError(
            f"this folder already has a picture called {theirs[0]} that no demo made.",
            str(out),
            "Give another --out.",
        )


def _newest_of(config: RunConfig, host: Host) -> RunFolder | None:
    """The newest run with exactly this configuration."""
    from lora_train.runs.folder import list_runs

    asked = config.to_dict()
    for run in list_runs(host.data_dir() / "runs"):
        try:
            if RunConfig.from_dict(run.read().get("config") or {}).to_dict() == asked:
                return run
        except LoraTrainError:  # of another version
            continue
    return None


def _only_to_draw(run: RunFolder, lora: Path, out: Path) -> bool:
    """Whether the demo was stopped between the end of its training and the end of its drawing."""
    from lora_train.runs.resuming import own_result

    if run.read().get("state") != "finished" or own_result(run) != lora:
        return False
    sheet = out / SHEET
    return not sheet.is_file() or sheet.stat().st_mtime < lora.stat().st_mtime


def _train(config: RunConfig, host: Host, before: RunFolder | None, out: Path, lora: Path, again: str) -> int:
    """Train in the terminal, from where it was stopped, if it was. Returns the exit code."""
    from lora_train.runs.stages import Stages
    from lora_train.runs.terminal import resume_with_progress, train_with_progress

    goes_on = before is not None and before.can_resume and before.read().get("state") != "failed"
    if lora.exists() and not goes_on:
        print(f"The previous demo's LoRA, {lora}, is replaced when this training is done, and so is its contact sheet.")
    write_pictures(out / "pictures")
    print(f"Training a LoRA of the mascot on the pictures in {out / 'pictures'}")
    print("The whole demo takes a few minutes; Ctrl-C stops it at any time, and the same command continues it.")
    started = time.monotonic()
    if before is not None and goes_on:
        print(f"Continuing the training that was stopped: {before.id}")
        code = resume_with_progress(before, host, again=again)
    else:
        code = train_with_progress(config, host, Stages(), again)
    if not code:
        print(f"Preparing and training took {time.monotonic() - started:.0f} seconds.")
    return code


def _show(run: RunFolder | None, lora: Path, out: Path) -> None:
    """Draw the demo's pictures, print where everything is, and the one command to try next."""
    from lora_train.runs.terminal import ProgressBar, clock

    bar, started = ProgressBar(), time.monotonic()

    def progress(done: int, total: int) -> None:
        left = (time.monotonic() - started) / done * (total - done)
        bar.show("Drawing", done, total, f"{clock(left)} left")

    print("Drawing the contact sheet ...", flush=True)
    try:
        sheet = _draw("Contact sheet", out / SHEET, lambda: _sheet(lora, progress))
    finally:
        bar.close()
    print()
    print(f"{'LoRA':<15}{lora}")
    if run is not None:
        print(_draw("Loss", out / LOSS, lambda: _loss_plot(run)))
    print(sheet)
    print(f"\nMake pictures with it on a page:  {own_command('ui')}")


def _sheet(lora: Path, progress: Progress) -> Image.Image:
    return before_and_after(lora.parent, lora.stem, progress)


def _loss_plot(run: RunFolder) -> Image.Image:
    from lora_train.runs.pictures import loss_plot

    steps = [event for event in run.events() if event["kind"] == "step"]
    return loss_plot([e["step"] for e in steps], [e["loss"] for e in steps], [e["smoothed"] for e in steps])


def _draw(title: str, path: Path, make: Callable[[], Image.Image]) -> str:
    """The line that says where the picture is, or why there is none: the LoRA is trained anyway."""
    from lora_train.runs.pictures import save_picture
    from lora_train.runs.writer import in_words

    try:
        save_picture(make(), path)
    except Exception as error:
        return f"{title:<15}not drawn: {in_words(error)}"
    return f"{title:<15}{path}"
