"""The command line: `lora-train train | prepare | resume | generate | demo | ui`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lora_train
from lora_train.config import (
    DataOptions,
    ModelOptions,
    NetworkOptions,
    PrepareOptions,
    PreviewOptions,
    RunConfig,
    SaveOptions,
    TrainOptions,
)
from lora_train.config.validate import PREPARE_OPERATIONS
from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from lora_train.hosts.base import Host

BAD_INPUT = 2
ABORTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for what the person can mend, 130 when stopped."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except LoraTrainError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nAborted.", file=sys.stderr)
        return ABORTED
    except BrokenPipeError:
        return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="lora-train", description="Train LoRAs for Stable Diffusion.")
    parser.add_argument("--version", action="version", version=f"lora-train {lora_train.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_prepare(commands)
    _add_resume(commands)
    _add_generate(commands)
    _add_demo(commands)
    ui = commands.add_parser("ui", help="open the page in a browser")
    ui.add_argument("--port", type=int, default=7870, help="default %(default)s")
    ui.add_argument("--no-browser", action="store_true", help="only start the server")
    ui.set_defaults(run=_ui)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a LoRA on a folder of pictures",
        description="Train a LoRA. What is not given is chosen, and the choices are shown.",
    )
    must = train.add_argument_group("what a person gives")
    must.add_argument(
        "--model", default=None, metavar="PATH", help="base model: .safetensors, .ckpt or diffusers folder"
    )
    must.add_argument("--input", default="", metavar="FOLDER", help="folder of pictures")
    must.add_argument("--output", "--name", default="", metavar="NAME", help="name of the LoRA")
    must.add_argument("--tag", default="", help="activation tag(s), put in front of every caption")
    must.add_argument("--dir", default=None, metavar="FOLDER", help="folder for LoRAs")
    must.add_argument("--overwrite", action="store_true", help="replace a LoRA of that name")
    steps = train.add_argument_group("steps and rates")
    steps.add_argument("--steps", type=int, help="training steps (default: by the number of pictures)")
    steps.add_argument("--dim", type=int, help="network dimension, also called rank (default 16)")
    steps.add_argument("--alpha", type=float, help="scale is alpha / dim; 0 means dim / 2 (the default)")
    steps.add_argument("--conv-dim", type=int, help="also train 3x3 convolutions (LoCon), with this dimension")
    steps.add_argument("--conv-alpha", type=float, help="as --alpha, for the convolutions")
    steps.add_argument("--repeats", type=int, help="repeats of each picture in an epoch (default 10)")
    steps.add_argument("--batch", type=int, default=1, help="pictures per step (default %(default)s)")
    steps.add_argument(
        "--gradient", type=int, default=1, help="accumulated batches per step; negative: the number of pictures"
    )
    steps.add_argument("--lr", type=float, default=1e-4, help="learning rate (default %(default)s)")
    steps.add_argument("--unetlr", type=float, help="learning rate of the UNet (default: --lr)")
    steps.add_argument(
        "--textlr", type=float, help="learning rate of the text encoder (default: half of --lr); 0: not trained"
    )
    steps.add_argument(
        "--scheduler", default="cosine", choices=("constant", "cosine", "linear"), help="default %(default)s"
    )
    steps.add_argument("--warmup", type=int, help="warm-up steps (default: 5 %% of the steps)")
    steps.add_argument("--optimizer", default="adamw", choices=("adamw",), help="default %(default)s")
    more = train.add_argument_group("data, noise and numbers")
    more.add_argument("--resolution", type=int, help="training size in pixels (default: the base model's)")
    more.add_argument("--flip", action="store_true", help="also train on mirrored pictures")
    more.add_argument("--shuffle", action="store_true", help="shuffle the caption's parts")
    more.add_argument("--keep-tokens", type=int, default=0, help="parts that stay in front when shuffled")
    more.add_argument("--caption-dropout", type=float, default=0.0, metavar="P", help="chance of an empty caption")
    more.add_argument("--no-upscale", action="store_true", help="never enlarge small pictures")
    more.add_argument("--min-snr", type=float, metavar="GAMMA", help="min-SNR loss weighting; 5 is usual")
    more.add_argument("--noise-offset", type=float, default=0.0, help="default %(default)s")
    more.add_argument("--clip-skip", type=int, default=1, help="default %(default)s")
    more.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="default %(default)s"
    )
    more.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    more.add_argument("--seed", type=int, default=42, help="default %(default)s")
    saving = train.add_argument_group("saving and previews")
    saving.add_argument("--interim", type=int, default=0, metavar="N", help="also save every N epochs; 0: off")
    saving.add_argument("--save-every", type=int, default=0, metavar="N", help="also save every N steps; 0: off")
    saving.add_argument("--comments", default="", help="a comment for the file's metadata")
    saving.add_argument(
        "--preview",
        action="append",
        default=[],
        metavar="PROMPT",
        help="make a picture at start and end; may be repeated",
    )
    saving.add_argument("--preview-every", type=int, default=0, metavar="N", help="and every N steps")
    stages = train.add_argument_group("stages")
    stages.add_argument("--notrain", action="store_true", help="prepare only: scan the pictures, cache their latents")
    stages.add_argument("--noprocess", "--nolatents", action="store_true", help="train on what was prepared before")
    stages.add_argument(
        "--nocaptions", action="store_true", help="make no captions (none are made yet: yours are read)"
    )
    stages.add_argument("--offline", action="store_true", help="use nothing that needs a WebUI (so it is, without one)")
    stages.add_argument(
        "--shutdown", action="store_true", help="stop the WebUI before training (needs its --api-server-stop)"
    )
    _add_operations(train, "")
    _add_server(train)
    stages.add_argument("--debug", action="store_true", help="show the log with details")
    train.set_defaults(run=_train)


def _add_prepare(commands: Any) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="prepare a folder of pictures: crop faces and bodies, reject blurred and similar ones ...",
        description="Do the operations to a copy of the pictures, and say what became of each and why.",
    )
    prepare.add_argument(
        "--input", required=True, metavar="FOLDER", help="folder of pictures; nothing is written there"
    )
    _add_operations(prepare, "original,blur,range,similar,resize")
    _add_server(prepare)
    prepare.set_defaults(run=_prepare, offline=False, shutdown=False)


def _add_operations(parser: Any, default: str) -> None:
    group = parser.add_argument_group("operations on the pictures")
    group.add_argument(
        "--process",
        default=default,
        metavar="LIST",
        help=f"operations separated by commas, of: {', '.join(PREPARE_OPERATIONS)} (default: {default or 'none'})",
    )
    group.add_argument("--target", type=int, metavar="PIXELS", help="longest side of a prepared picture (default 512)")
    group.add_argument("--min-size", type=int, metavar="PIXELS", help="reject what is smaller (default: the target)")
    group.add_argument("--blur-score", type=float, default=1.8, help="reject above it (default %(default)s)")
    group.add_argument("--range-score", type=float, default=0.15, help="reject below it (default %(default)s)")
    group.add_argument("--similar-score", type=float, default=0.8, help="reject above it (default %(default)s)")


def _add_server(parser: Any) -> None:
    server = parser.add_argument_group("a WebUI that runs elsewhere, started with --api")
    server.add_argument("--server", default="", metavar="URL", help="its address; its checkpoint is unloaded meanwhile")
    server.add_argument("--user", default="", help="of its --api-auth")
    server.add_argument("--password", default="", help="of its --api-auth")


def _add_resume(commands: Any) -> None:
    resume = commands.add_parser("resume", help="go on with a training that was stopped or killed")
    resume.add_argument(
        "run_id", metavar="RUN", nargs="?", default="", help="the run's id (default: the newest that can go on)"
    )
    resume.set_defaults(run=_resume)


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser("generate", help="make pictures; <lora:name:strength> works in the prompt")
    generate.add_argument("prompt")
    generate.add_argument("--model", default=None, metavar="PATH", help="base model")
    generate.add_argument("--dir", default=None, metavar="FOLDER", help="folder of LoRAs")
    generate.add_argument("--negative", default="", help="negative prompt")
    generate.add_argument("--seed", type=int, default=1, help="first seed (default %(default)s)")
    generate.add_argument("--count", type=int, default=1, help="number of pictures (default %(default)s)")
    generate.add_argument("--steps", type=int, default=20, help="default %(default)s")
    generate.add_argument("--guidance", type=float, default=7.0, help="default %(default)s")
    generate.add_argument(
        "--output", type=Path, default=Path("picture.png"), help="file to write (default %(default)s)"
    )
    generate.set_defaults(run=_generate)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo", help="train the mascot's LoRA on the tiny base model that ships with this package"
    )
    demo.add_argument("--out", type=Path, default=Path("demo/out"), help="default %(default)s")
    demo.set_defaults(run=_demo)
    inner = demo.add_subparsers(metavar="COMMAND")
    export = inner.add_parser("export-checkpoint", help="write the tiny base as one checkpoint for a WebUI")
    export.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("--overwrite", action="store_true", help="replace what is there")
    export.set_defaults(run=_export)


def config_of(options: argparse.Namespace, model: str, lora_dir: str) -> RunConfig:
    """The run that the options of `train` ask for; `model` and `lora_dir` are the defaults."""
    return RunConfig(
        model=ModelOptions(path=model if options.model is None else options.model, clip_skip=options.clip_skip),
        data=DataOptions(
            folder=options.input,
            tag=options.tag,
            resolution=options.resolution,
            repeats=options.repeats,
            train_batch_size=options.batch,
            bucket_no_upscale=options.no_upscale,
            flip_aug=options.flip,
            shuffle_caption=options.shuffle,
            keep_tokens=options.keep_tokens,
            caption_dropout_rate=options.caption_dropout,
        ),
        prepare=prepare_of(options),
        network=NetworkOptions(
            network_dim=options.dim,
            network_alpha=options.alpha,
            conv_dim=options.conv_dim,
            conv_alpha=options.conv_alpha,
        ),
        train=TrainOptions(
            max_train_steps=options.steps,
            gradient_accumulation_steps=options.gradient,
            learning_rate=options.lr,
            unet_lr=options.unetlr,
            text_encoder_lr=options.textlr,
            optimizer=options.optimizer,
            lr_scheduler=options.scheduler,
            lr_warmup_steps=options.warmup,
            min_snr_gamma=options.min_snr,
            noise_offset=options.noise_offset,
            mixed_precision=options.precision,
            seed=options.seed,
            device=options.device,
        ),
        save=SaveOptions(
            output_name=options.output.removesuffix(".safetensors"),
            output_dir=lora_dir if options.dir is None else options.dir,
            overwrite=options.overwrite,
            save_every_n_steps=options.save_every,
            save_every_n_epochs=options.interim,
            training_comment=options.comments,
        ),
        preview=PreviewOptions(prompts=tuple(options.preview), sample_every_n_steps=options.preview_every),
    )


def prepare_of(options: argparse.Namespace) -> PrepareOptions:
    """The preparation that the options ask for."""
    return PrepareOptions(
        operations=tuple(name.strip() for name in options.process.split(",") if name.strip()),
        target=options.target,
        min_size=options.min_size,
        max_blur=options.blur_score,
        min_range=options.range_score,
        max_similarity=options.similar_score,
    )


def _prepare(options: argparse.Namespace) -> int:
    from lora_train.config import problems
    from lora_train.data.prepare import prepare
    from lora_train.data.scan import require_folder
    from lora_train.runs.preparing import services_of, work_folder
    from lora_train.runs.terminal import ProgressBar

    host, wanted, folder = _host(options), prepare_of(options), Path(options.input)
    found = [p for p in problems(RunConfig(prepare=wanted)) if p.where.startswith("prepare.")]
    try:
        require_folder(folder)
    except LoraTrainError as error:
        found += error.problems
    if found:
        raise LoraTrainError.of(found)
    bar, work = ProgressBar(), work_folder(folder, host)
    prepared = prepare(
        folder,
        wanted,
        work,
        services_of(host, wanted),
        lambda done, total: bar.on_event({"kind": "prepare", "done": done, "total": total}),
    )
    bar.close()
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    print(prepared.line())
    print(f"Pictures  {prepared.folder}")
    print(f"Report    {prepared.report}")
    return 0


def _host(options: argparse.Namespace) -> Host:
    """The WebUI named with --server, or none."""
    from lora_train.hosts.standalone import StandaloneHost

    if not options.server or options.offline:
        if options.shutdown:
            raise LoraTrainError("there is no WebUI to stop.", "--shutdown", "Name it with --server URL.")
        return StandaloneHost()
    from lora_train.hosts.remote import RemoteHost

    return RemoteHost(options.server, options.user, options.password)


def _train(options: argparse.Namespace) -> int:
    from lora_train.runs.stages import Stages
    from lora_train.runs.terminal import train_with_progress

    if options.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG)
    host = _host(options)
    model = "" if options.model is not None else str(host.current_checkpoint() or "")
    config = config_of(options, model, str(host.lora_dir()))
    stages = Stages(process=not options.noprocess, train=not options.notrain, shutdown=options.shutdown)
    return train_with_progress(config, host, stages)


def _resume(options: argparse.Namespace) -> int:
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.runs.folder import list_runs
    from lora_train.runs.terminal import resume_with_progress

    host = StandaloneHost()
    runs = list_runs(host.data_dir() / "runs")
    wanted = [run for run in runs if run.id == options.run_id or (not options.run_id and run.can_resume)]
    if not wanted:
        there = ", ".join(run.id for run in runs if run.can_resume) or "none"
        raise LoraTrainError(
            f"there is no such run to go on with (there: {there}).",
            options.run_id or str(host.data_dir() / "runs"),
            "Give the id of a run that was stopped.",
        )
    return resume_with_progress(wanted[0], host)


def _generate(options: argparse.Namespace) -> int:
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.models.opening import open_model
    from lora_train.prompt.generate import Generator

    if options.count < 1 or options.steps < 1:
        raise LoraTrainError("the number of pictures and of steps must be at least 1.", "--count, --steps")
    host = StandaloneHost()
    model = options.model if options.model is not None else str(host.current_checkpoint() or "")
    folder = Path(options.dir) if options.dir is not None else host.lora_dir()
    seeds = range(options.seed, options.seed + options.count)
    made = Generator(open_model(Path(model)), folder).generate(
        options.prompt, seeds, options.negative, options.steps, options.guidance
    )
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    for number, picture in enumerate(made.pictures):
        path = options.output
        if options.count > 1:
            path = path.with_name(f"{path.stem}-{seeds[number]}{path.suffix}")
        _write_picture(picture, path)
        print(path)
    return 0


def _write_picture(picture: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except (OSError, ValueError) as error:
        raise LoraTrainError(f"cannot write the picture: {error}.", str(path), "Give another --output.") from error


def _demo(options: argparse.Namespace) -> int:
    from lora_train.demo.run import run_demo

    return run_demo(options.out)


def _export(options: argparse.Namespace) -> int:
    from lora_train.demo.checkpoint import export_checkpoint

    for path in export_checkpoint(options.folder, options.overwrite):
        print(path)
    return 0


def _ui(options: argparse.Namespace) -> int:
    from lora_train.ui.standalone import serve

    serve(options.port, open_browser=not options.no_browser)
    return 0


if __name__ == "__main__":
    sys.exit(main())
