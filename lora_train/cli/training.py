"""`lora-train train` and `resume`: the options of a run, and running it in the terminal."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lora_train.cli.hosts import add_server, host_of, without_shards
from lora_train.cli.network import add_network, network_of
from lora_train.cli.parser import Switch
from lora_train.cli.preparing import add_operations, prepare_of
from lora_train.config import (
    DataOptions,
    ModelOptions,
    PreviewOptions,
    RunConfig,
    SaveOptions,
    TrainOptions,
    kohya,
    problems,
)
from lora_train.errors import LoraTrainError, Problem
from lora_train.runs.stages import Stages

if TYPE_CHECKING:
    from lora_train.hosts.base import Host


def add_train(commands: Any) -> None:
    """The command "train"."""
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
    _add_sources(train)
    _add_steps(train)
    add_network(train)
    _add_data_and_noise(train)
    _add_saving(train)
    _add_stages(train)
    add_operations(train, "")
    add_server(train)
    _add_kohyas(train)
    train.set_defaults(run=_train, look=_look)


class _Noted(argparse.Action):
    """Remembers that a flag was given which does nothing here."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), self.option_strings[0].lstrip("-")])


class _Same(argparse.Action):
    """Takes a flag of sd-scripts with a value that changes nothing here, and remembers it; another is a problem."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name = self.option_strings[0].lstrip("-")
        given = values if isinstance(values, list) else [values]
        if all(kohya.is_same(name, value) for value in given):
            text = f"{option_string} {' '.join(given)}".strip()
            setattr(namespace, self.dest, [*getattr(namespace, self.dest), text])
        else:
            parser.problems.append(parser.absent_flag(str(option_string), f"with the value {' '.join(given)!r} "))


def _add_kohyas(train: Any) -> None:
    """The names that sd-scripts has for our flags, and its flags that make no difference."""
    train.alias(kohya.FLAGS)
    train.absent = kohya.ABSENT
    for name in kohya.NOTED:
        count = 0 if name in kohya.TAKES_NO_VALUE else None
        train.add_argument(f"--{name}", dest="noted", action=_Noted, nargs=count, default=[], help=argparse.SUPPRESS)
    for name in kohya.SAME:
        several = "*" if name in kohya.LISTS else None
        train.add_argument(f"--{name}", dest="same", action=_Same, nargs=several, default=[], help=argparse.SUPPRESS)


def _side(text: str) -> int:
    """A resolution, also as sd-scripts has it: "512,512"."""
    sides = {int(side) for side in text.split(",")} if re.fullmatch(r"\d+(,\d+)?", text.replace(" ", "")) else set()
    if len(sides) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one number: buckets have the area of a square of this side")
    return sides.pop()


def _add_steps(train: Any) -> None:
    steps = train.add_argument_group("steps and rates")
    steps.add_argument("--steps", type=int, help="training steps (default: by the number of pictures)")
    steps.add_argument("--dim", type=int, help="network dimension, also called rank (default 16)")
    steps.add_argument("--alpha", type=float, help="scale is alpha / dim; 0 means dim / 2 (the default)")
    steps.add_argument(
        "--conv-dim", type=int, help="also train 3x3 convolutions (LoCon), with this dimension; 0: never"
    )
    steps.add_argument("--conv-alpha", type=float, help="as --alpha, for the convolutions")
    steps.add_argument("--repeats", type=int, help="repeats of each picture in an epoch (default 10)")
    steps.add_argument("--batch", type=int, help="pictures per step (default: by the base model, usually 1)")
    steps.add_argument(
        "--gradient", type=int, default=1, help="accumulated batches per step; negative: the number of pictures"
    )
    steps.add_argument("--lr", type=float, help="learning rate (default: by the base model, usually 1e-4)")
    steps.add_argument("--unetlr", type=float, help="learning rate of the UNet (default: --lr)")
    steps.add_argument(
        "--textlr", type=float, help="learning rate of the text encoder (default: half of --lr); 0: not trained"
    )
    steps.add_argument(
        "--scheduler", default="cosine", choices=("constant", "cosine", "linear"), help="default %(default)s"
    )
    steps.add_argument("--warmup", type=int, help="warm-up steps (default: 5 %% of the steps)")
    steps.add_argument("--optimizer", default="adamw", choices=("adamw",), help="default %(default)s")


def _add_data_and_noise(train: Any) -> None:
    more = train.add_argument_group("data, noise and numbers")
    more.add_argument("--resolution", type=_side, help="training size in pixels (default: the base model's)")
    more.add_argument("--flip", action="store_true", help="also train on mirrored pictures")
    more.add_argument("--shuffle", action="store_true", help="shuffle the caption's parts")
    more.add_argument(
        "--keep-tokens", type=int, default=0, help="parts that stay in front when shuffled; the tag stays anyway"
    )
    more.add_argument("--caption-dropout", type=float, default=0.0, metavar="P", help="chance of an empty caption")
    more.add_argument("--no-upscale", action="store_true", help="never enlarge small pictures")
    for flag, what in (("--min-bucket-reso", "shortest"), ("--max-bucket-reso", "longest")):
        more.add_argument(flag, type=int, metavar="PIXELS", help=f"{what} side of a bucket (default: by --resolution)")
    more.add_argument("--bucket-reso-steps", type=int, default=64, metavar="PIXELS", help="default %(default)s")
    more.add_argument("--max-grad-norm", type=float, default=1.0, metavar="NORM", help="default %(default)s; 0: off")
    more.add_argument(
        "--gradient-checkpointing",
        action=Switch,
        default=None,
        help="less memory, slower steps (default: where the GPU has too little)",
    )
    more.add_argument("--min-snr", type=float, metavar="GAMMA", help="min-SNR loss weighting; 5 is usual")
    more.add_argument(
        "--preserve",
        type=float,
        metavar="SHARE",
        help="for this share of the pictures also learn to change nothing where the caption has no tag; 0: none",
    )
    more.add_argument("--noise-offset", type=float, default=0.0, help="default %(default)s")
    more.add_argument("--clip-skip", type=int, default=1, help="default %(default)s")
    more.add_argument("--textlr1", type=float, help="learning rate of SDXL's first text encoder (default: --textlr)")
    more.add_argument("--textlr2", type=float, help="of its second")
    more.add_argument(
        "--v-parameterization",
        action=Switch,
        help="whether the base predicts v (default: as its files say)",
    )
    more.add_argument(
        "--zero-terminal-snr",
        action=Switch,
        help="train the last time as pure noise (default: as the base was)",
    )
    more.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="default %(default)s"
    )
    more.add_argument("--device", default="auto", help="auto, cuda, cuda:1 ..., mps or cpu")
    more.add_argument("--seed", type=int, default=42, help="default %(default)s")


def _add_saving(train: Any) -> None:
    saving = train.add_argument_group("saving and previews")
    saving.add_argument("--interim", type=int, default=0, metavar="N", help="also save every N epochs; 0: off")
    saving.add_argument("--save-every", type=int, default=0, metavar="N", help="also save every N steps; 0: off")
    saving.add_argument(
        "--save-precision",
        default="fp16",
        choices=("fp16", "bf16", "fp32"),
        help="of the LoRA file (default %(default)s)",
    )
    saving.add_argument("--comments", default="", help="a comment for the file's metadata")
    saving.add_argument(
        "--preview",
        action="append",
        default=[],
        metavar="PROMPT",
        help="make a picture at start and end; may be repeated",
    )
    saving.add_argument("--preview-every", type=int, default=0, metavar="N", help="and every N steps")


def _add_stages(train: Any) -> None:
    stages = train.add_argument_group("stages")
    stages.add_argument("--notrain", action="store_true", help="prepare only: pictures, captions, metadata, latents")
    stages.add_argument("--noprocess", action="store_true", help="train on what was prepared before")
    stages.add_argument("--nolatents", action="store_true", help="make no latents: train on those that are there")
    stages.add_argument("--offline", action="store_true", help="use no WebUI and download nothing")
    stages.add_argument(
        "--shutdown", action="store_true", help="stop the WebUI before training (needs its --api-server-stop)"
    )
    stages.add_argument("--debug", action="store_true", help="show the log with details")


def _add_sources(train: Any) -> None:
    """Other forms of pictures, captions, masks and latents."""
    group = train.add_argument_group("what others prepared, and masks")
    group.add_argument(
        "--in-json",
        "--in_json",
        default="",
        metavar="FILE",
        help="kohya's metadata .json or an imagefolder's metadata.jsonl: train on the pictures below --input it names",
    )
    group.add_argument(
        "--dataset-config",
        "--dataset_config",
        default="",
        metavar="FILE",
        help="kohya's dataset config (TOML or JSON), in place of --input",
    )
    group.add_argument("--masked-loss", action="store_true", help="weigh the loss by masks: segment's, or the alpha")
    group.add_argument("--mask-folder", default="", metavar="FOLDER", help="masks by the pictures' relative paths")
    group.add_argument("--read-npz", action="store_true", help="take latents from sd-scripts' .npz files, if any")
    group.add_argument("--write-npz", action="store_true", help="write such files beside the pictures trained on")


def add_resume(commands: Any) -> None:
    """The command "resume"."""
    resume = commands.add_parser("resume", help="go on with a training that was stopped or killed")
    resume.add_argument(
        "run_id", metavar="RUN", nargs="?", default="", help="the run's id (default: the newest that can go on)"
    )
    resume.add_argument(
        "--steps", type=int, help="train so many steps in all, more than before; a finished run goes on with it, too"
    )
    resume.set_defaults(run=_resume)


def config_of(options: argparse.Namespace, model: str, lora_dir: str) -> RunConfig:
    """The run that the options of `train` ask for; `model` and `lora_dir` are the defaults."""
    return RunConfig(
        model=ModelOptions(
            path=model if options.model is None else options.model,
            clip_skip=options.clip_skip,
            v_parameterization=options.v_parameterization,
        ),
        data=DataOptions(
            folder=options.input,
            in_json=options.in_json,
            dataset_config=options.dataset_config,
            mask_folder=options.mask_folder,
            read_npz=options.read_npz,
            write_npz=options.write_npz,
            tag=options.tag,
            resolution=options.resolution,
            repeats=options.repeats,
            train_batch_size=options.batch,
            min_bucket_reso=options.min_bucket_reso,
            max_bucket_reso=options.max_bucket_reso,
            bucket_reso_steps=options.bucket_reso_steps,
            bucket_no_upscale=options.no_upscale,
            flip_aug=options.flip,
            shuffle_caption=options.shuffle,
            keep_tokens=options.keep_tokens,
            caption_dropout_rate=options.caption_dropout,
        ),
        prepare=prepare_of(options),
        network=network_of(options),
        train=TrainOptions(
            max_train_steps=options.steps,
            gradient_accumulation_steps=options.gradient,
            learning_rate=options.lr,
            unet_lr=options.unetlr,
            text_encoder_lr=options.textlr,
            text_encoder_lr1=options.textlr1,
            text_encoder_lr2=options.textlr2,
            stop_text_encoder_training=options.stop_text,
            zero_terminal_snr=options.zero_terminal_snr,
            optimizer=options.optimizer,
            lr_scheduler=options.scheduler,
            lr_warmup_steps=options.warmup,
            max_grad_norm=options.max_grad_norm,
            gradient_checkpointing=options.gradient_checkpointing,
            min_snr_gamma=options.min_snr,
            preserve=options.preserve,
            noise_offset=options.noise_offset,
            masked_loss=options.masked_loss,
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
            save_precision=options.save_precision,
            training_comment=options.comments,
        ),
        preview=PreviewOptions(prompts=tuple(options.preview), sample_every_n_steps=options.preview_every),
    )


def _train(options: argparse.Namespace) -> int:
    from lora_train.runs.terminal import train_with_progress

    if options.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG)
    for name in options.noted:
        print(f"note: --{name} {kohya.NOTED[name]}.", file=sys.stderr)
    if options.same:
        print(f"note: as it is here anyway: {', '.join(options.same)}.", file=sys.stderr)
    host = host_of(options)
    config = _config(options, host)
    if options.model is None and config.model.path:
        print(f"note: without --model it trains on {config.model.path}.", file=sys.stderr)
    if not problems(config):
        config = replace(config, data=replace(config.data, folder=without_shards(config.data.folder, host)))
    return train_with_progress(config, host, _stages(options))


def _config(options: argparse.Namespace, host: Host) -> RunConfig:
    from lora_train.models.hub import local_model

    given = None if options.model is None else local_model(options.model)
    # a server is asked only for what is not given: one that is gone is a problem beside the others
    model = str(host.current_checkpoint() or "") if given is None else ""
    return config_of(argparse.Namespace(**vars(options) | {"model": given}), model, str(host.lora_dir()))


def _stages(options: argparse.Namespace) -> Stages:
    return Stages(
        process=not options.noprocess,
        latents=not options.nolatents,
        train=not options.notrain,
        shutdown=options.shutdown,
    )


def _look(options: argparse.Namespace) -> list[Problem]:
    """What else is wrong, where the command line alone is wrong already; no server is asked and nothing downloaded."""
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
        if runs and not options.run_id:  # all are finished, or going on; the newest says what can be done
            wanted = runs
        else:
            raise LoraTrainError(
                f"there is no such run to go on with (there: {there}).",
                options.run_id or str(host.data_dir() / "runs"),
                "Give the id of a run that was stopped.",
            )
    return resume_with_progress(wanted[0], host, options.steps)
