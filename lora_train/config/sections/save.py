"""The result, what is saved on the way, and previews."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.choices import SAMPLERS, SAVE_PRECISIONS, TRACKERS
from lora_train.config.option import BASICS, COMMON, FIRST, REPEATED, SAVING, option
from lora_train.config.registered import Section

_COUNT = (0, 10_000_000)


@dataclass(frozen=True)
class SaveOptions(Section, section="save"):
    """The result and what is written on the way."""

    output_name: str = option(
        "",
        "Name",
        "name of the LoRA",
        BASICS,
        FIRST,
        flags=("--output", "--name"),
        metavar="NAME",
        kohya=("output_name",),
        metadata="ss_output_name",
    )
    output_dir: str = option(
        "",
        "Folder for LoRAs",
        "folder for LoRAs",
        BASICS,
        unset="the WebUI's, else lora-train-data/loras",
        flags=("--dir",),
        metavar="FOLDER",
        kohya=("output_dir",),
    )
    overwrite: bool = option(
        False, "Replace an existing LoRA", "replace an existing LoRA of the same name", BASICS, COMMON
    )
    save_every_n_steps: int = option(
        0,
        "Save every N steps",
        "also save the LoRA every N steps; 0: off",
        SAVING,
        range=_COUNT,
        flags=("--save-every",),
        metavar="N",
        kohya=("save_every_n_steps",),
    )
    save_every_n_epochs: int = option(
        0,
        "Save every N epochs",
        "also save the LoRA every N epochs; 0: off",
        SAVING,
        range=_COUNT,
        flags=("--interim",),
        metavar="N",
        kohya=("save_every_n_epochs",),
    )
    save_state_every_n_minutes: float = option(
        2.0,
        "Save the state every N minutes",
        "save the state for resuming every N minutes while training; 0: only when the run is stopped",
        SAVING,
        range=(0, 10_000),
        flags=("--save-state-every",),
        metavar="MINUTES",
    )
    save_precision: str = option(
        "fp16",
        "Precision of the file",
        "number format of the LoRA file",
        SAVING,
        choices=SAVE_PRECISIONS,
        kohya=("save_precision",),
        kohya_values={"float": "fp32"},
    )
    training_comment: str = option(
        "",
        "Comment",
        "comment stored in the file's metadata",
        SAVING,
        flags=("--comments",),
        metavar="TEXT",
        kohya=("training_comment",),
    )
    log_with: str = option(
        "auto",
        "Trackers",
        "where losses and rates are logged besides the run's log.csv; auto: TensorBoard if it is installed",
        SAVING,
        choices=TRACKERS,
        kohya=("log_with",),
    )
    logging_dir: str = option(
        "",
        "Folder for logs",
        "folder for the trackers' files, one below it for each run",
        SAVING,
        unset="the run's own",
        metavar="FOLDER",
        kohya=("logging_dir",),
    )
    log_tracker_name: str = option(
        "",
        "Project in trackers",
        "name of the project in the trackers",
        SAVING,
        unset="lora-train",
        metavar="NAME",
        kohya=("log_tracker_name",),
    )
    wandb_run_name: str = option(
        "",
        "Run in trackers",
        "name of this run in the trackers",
        SAVING,
        unset="the run's id",
        metavar="NAME",
        kohya=("wandb_run_name",),
    )


@dataclass(frozen=True)
class PreviewOptions(Section, section="preview"):
    """Pictures made during the training."""

    prompts: tuple[str, ...] = option(
        (),
        "Preview prompt",
        "generate a picture from this prompt at start and end; sd-scripts' flags for size, seed ... may follow it",
        SAVING,
        COMMON,
        flags=("--preview",),
        metavar="PROMPT",
        written=REPEATED,
    )
    sample_every_n_steps: int = option(
        0,
        "Preview every N steps",
        "also make the previews every N steps; 0: only at start and end",
        SAVING,
        COMMON,
        range=_COUNT,
        flags=("--preview-every",),
        metavar="N",
        kohya=("sample_every_n_steps",),
    )
    sample_every_n_epochs: int = option(
        0,
        "Preview every N epochs",
        "also make the previews every N epochs; 0: off",
        SAVING,
        range=_COUNT,
        flags=("--preview-every-epochs",),
        metavar="N",
        kohya=("sample_every_n_epochs",),
    )
    sample_at_first: bool = option(
        True,
        "Preview at the start",
        "make the previews before the first step as well",
        SAVING,
        flags=("--preview-at-first",),
        kohya=("sample_at_first",),
    )
    sample_prompts: str = option(
        "",
        "File of preview prompts",
        "more prompts for previews: a .txt file with one a line, or a .toml or .json file as sd-scripts reads it",
        SAVING,
        unset="none",
        flags=("--preview-file",),
        metavar="FILE",
        kohya=("sample_prompts",),
    )
    sampler: str = option(
        "dpmsolver++",
        "Preview sampler",
        "sampler of a preview",
        SAVING,
        choices=SAMPLERS,
        flags=("--preview-sampler",),
        kohya=("sample_sampler",),
    )
    steps: int = option(
        20,
        "Preview steps",
        "sampling steps of a preview",
        SAVING,
        range=(1, 1000),
        flags=("--preview-steps",),
        metavar="N",
    )
    guidance: float | None = option(
        None,
        "Preview guidance",
        "guidance scale (CFG) of a preview",
        SAVING,
        range=(0, 100),
        unset="the usual one of the base model's family",
        flags=("--preview-guidance",),
        metavar="SCALE",
    )
    seed: int = option(
        1,
        "Preview seed",
        "seed of a preview",
        SAVING,
        range=(0, 2**63 - 1),
        flags=("--preview-seed",),
        metavar="N",
    )
