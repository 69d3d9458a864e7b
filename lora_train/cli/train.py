"""`lora-train train` and `resume`: the options of a run, and running it in the terminal."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.cli.from_files import add_config
from lora_train.cli.hosts import add_server, host_of
from lora_train.cli.network import add_network, network_of
from lora_train.cli.options import add_options, with_given
from lora_train.cli.prepare import add_operations, prepare_of
from lora_train.cli.preset import keep_preset, started_from
from lora_train.config import RunConfig, kohya, problems
from lora_train.config.files import set_options, write_config
from lora_train.config.option import NETWORK
from lora_train.config.table import options as all_options
from lora_train.errors import LoraTrainError, Problem
from lora_train.runs.stages import Stages

if TYPE_CHECKING:
    from lora_train.hosts.base import Host


def add_train(commands: Any) -> None:
    """The command "train"."""
    train = commands.add_parser(
        "train",
        help="train a LoRA on a folder of pictures",
        description="Train a LoRA. Options that are not given are chosen automatically, and the choices are shown.",
    )
    groups = add_options(train, all_options())
    add_network(groups[NETWORK])
    add_operations(groups)
    _add_files(train)
    _add_stages(train)
    add_server(train)
    _add_kohyas(train)
    train.set_defaults(run=_train, precheck=_precheck, report=())


class _Noted(argparse.Action):
    """Records a given flag that has no effect here."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), self.option_strings[0].lstrip("-")])


class _Same(argparse.Action):
    """Accepts a flag of sd-scripts with a value that changes nothing here, and records it; other values are
    problems."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name = self.option_strings[0].lstrip("-")
        if kohya.is_same(name, values):
            text = f"{option_string} {values}".strip()
            setattr(namespace, self.dest, [*getattr(namespace, self.dest), text])
        else:
            parser.problems.append(parser.absent_flag(str(option_string), f"with the value {values!r} "))


def _add_kohyas(train: Any) -> None:
    """Add sd-scripts' names for our flags, and its flags that make no difference."""
    train.alias(kohya.FLAGS)
    train.absent = kohya.ABSENT
    for name in kohya.NOTED:
        count = 0 if name in kohya.TAKES_NO_VALUE else None
        train.add_argument(f"--{name}", dest="noted", action=_Noted, nargs=count, default=[], help=argparse.SUPPRESS)
    for name in kohya.SAME:
        train.add_argument(f"--{name}", dest="same", action=_Same, default=[], help=argparse.SUPPRESS)


def _add_files(train: Any) -> None:
    group = add_config(
        train,
        "train.seed=7 data.flip_aug=true",
        "JSON, TOML or YAML; also sd-scripts' --config_file, or a preset of the kohya_ss GUI, OneTrainer or ai-toolkit",
    )
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="start from this preset (lora-train preset list); the file of --config and flags win",
    )
    group.add_argument("--save-preset", metavar="NAME", help="keep these options as a preset of this name")
    group.add_argument(
        "--export-kohya",
        metavar="FILE",
        help="also write the options for sd-scripts (.toml or .json), with what it lacks",
    )
    group.add_argument(
        "--save-config", metavar="FILE", help="write the options to this file (.json or .toml) for --config"
    )


def _add_stages(train: Any) -> None:
    stages = train.add_argument_group("stages")
    stages.add_argument("--notrain", action="store_true", help="prepare only: pictures, captions, metadata, latents")
    stages.add_argument("--noprocess", action="store_true", help="train on pictures prepared before")
    stages.add_argument("--nolatents", action="store_true", help="compute no latents: train on existing ones")
    stages.add_argument("--offline", action="store_true", help="use no WebUI and download nothing")
    stages.add_argument(
        "--shutdown", action="store_true", help="stop the WebUI before training (needs its --api-server-stop)"
    )
    stages.add_argument("--debug", action="store_true", help="show the log with details")


def add_resume(commands: Any) -> None:
    """The command "resume"."""
    resume = commands.add_parser("resume", help="continue a training that was stopped or killed")
    resume.add_argument(
        "run_id", metavar="RUN", nargs="?", default="", help="the run's id (default: the newest that can be resumed)"
    )
    resume.add_argument(
        "--steps", type=int, help="train this many steps in all, more than before; this also continues a finished run"
    )
    resume.set_defaults(run=_resume)


def config_of(options: argparse.Namespace, model: str, lora_dir: str) -> RunConfig:
    """The run that the options of `train` ask for; `model` and `lora_dir` are used where none is given."""
    return _completed(asked_of(options), options, model, lora_dir)


def _completed(asked: RunConfig, options: argparse.Namespace, model: str, lora_dir: str) -> RunConfig:
    if options.model is None and not asked.model.path:
        asked = replace(asked, model=replace(asked.model, path=model))
    if options.dir is None and not asked.save.output_dir:
        asked = replace(asked, save=replace(asked.save, output_dir=lora_dir))
    return asked


def asked_of(options: argparse.Namespace) -> RunConfig:
    """The run asked for. Raises LoraTrainError with everything that is not understood."""
    asked, found = _asked(options)
    if found:
        raise LoraTrainError.of(found)
    return asked


def _asked(options: argparse.Namespace) -> tuple[RunConfig, list[Problem]]:
    """The options of --config, changed by flags, then by --set; and everything in these that is not understood."""
    from lora_train.hosts.allowing import noting

    found: list[Problem] = []
    asked = network = RunConfig()
    with noting(found, "--config"):
        asked, options.report = started_from(options.preset, options.config)
    with noting(found, "--args"):
        network = replace(asked, network=network_of(options, asked.network))
    asked = replace(
        asked,
        model=with_given(asked.model, options, "model"),
        data=with_given(asked.data, options, "data"),
        prepare=prepare_of(options, asked.prepare),
        network=network.network,
        train=with_given(asked.train, options, "train"),
        save=with_given(asked.save, options, "save"),
        preview=with_given(asked.preview, options, "preview"),
    )
    with noting(found, "--set"):
        asked = set_options(asked, options.set)
    return asked, found


def _train(options: argparse.Namespace) -> int:
    from lora_train.runs.terminal import train_with_progress

    if options.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG)
    for name in options.noted:
        print(f"note: --{name} {kohya.NOTED[name]}.", file=sys.stderr)
    if options.same:
        print(f"note: already the behaviour here: {', '.join(options.same)}.", file=sys.stderr)
    host = host_of(options)
    asked, found = _asked(options)
    config = _config(options, host, (asked, found))
    for line in options.report:
        print(f"note: {options.config}: {line}", file=sys.stderr)
    if options.model is None and config.model.path and not asked.model.path:
        print(f"note: without --model it trains on {config.model.path}.", file=sys.stderr)
    if not problems(config):
        _save_config(options, asked)
        keep_preset(options.save_preset, options.export_kohya, asked)
    return train_with_progress(config, host, _stages(options))


def _save_config(options: argparse.Namespace, asked: RunConfig) -> None:
    """Write the given options to the file of --save-config; open ones stay open."""
    if options.save_config is None:
        return
    path = Path(options.save_config).expanduser()
    if path.exists() and not options.overwrite:
        raise LoraTrainError("there is already such a file.", str(path), "Give another name, or --overwrite.")
    write_config(path, asked)
    print(f"Options   {path}", flush=True)


def _config(
    options: argparse.Namespace, host: Host, parsed: tuple[RunConfig, list[Problem]] | None = None
) -> RunConfig:
    """The run asked for (`parsed`, where that has been done) with what the host fills in.

    Raises LoraTrainError with all problems.
    """
    from lora_train.models.hub import local_model

    asked, found = parsed or _asked(options)
    if found:  # the rest is checked anyway; only what the host would fill in is not reported as missing
        rest = [one for one in problems(asked) if one.where not in ("model.path", "save.output_dir")]
        raise LoraTrainError.of(found + rest)
    given = asked.model.path
    # a server is asked only for what is not given; one that does not answer is reported with the other problems
    model = "" if given or options.model is not None else str(host.current_checkpoint() or "")
    config = _completed(asked, options, model, str(host.lora_dir()))
    return replace(config, model=replace(config.model, path=local_model(given))) if given else config


def _stages(options: argparse.Namespace) -> Stages:
    return Stages(
        process=not options.noprocess,
        latents=not options.nolatents,
        train=not options.notrain,
        shutdown=options.shutdown,
    )


def _precheck(options: argparse.Namespace) -> list[Problem]:
    """Further problems, where the command line itself is already wrong; contacts no server and downloads nothing."""
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.runs.check import check_run

    host = StandaloneHost(offline=True)
    try:
        check_run(_config(options, host), host, _stages(options))
    except LoraTrainError as error:
        return error.problems
    return []


def _resume(options: argparse.Namespace) -> int:
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.runs.folder import list_runs
    from lora_train.runs.terminal import resume_with_progress

    host = StandaloneHost()
    runs = list_runs(host.data_dir() / "runs")
    wanted = [run for run in runs if run.id == options.run_id or (not options.run_id and run.can_resume)]
    if not wanted:
        there = ", ".join(run.id for run in runs if run.can_resume) or "none"
        if runs and not options.run_id:  # all are finished or running; the newest says what can be done
            wanted = runs
        else:
            raise LoraTrainError(
                f"there is no such run to continue (there: {there}).",
                options.run_id or str(host.data_dir() / "runs"),
                "Give the id of a run that was stopped.",
            )
    return resume_with_progress(wanted[0], host, options.steps)
