"""What a run depends on, checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import RunConfig, problems
from lora_train.config.methods import Choice
from lora_train.config.training_methods import TABLES
from lora_train.config.usual import DEFAULT_REPEATS
from lora_train.data.parts import assign_parts
from lora_train.data.scan import Manifest
from lora_train.data.sources import read_pictures
from lora_train.datasets.captioning import captioning_problems, server_problems
from lora_train.device import pick_device, require_precision
from lora_train.errors import LoraTrainError, Problem
from lora_train.hosts.allowing import allowed, noting
from lora_train.runs.previews import check_previews
from lora_train.runs.stages import Stages
from lora_train.runs.trackers import tracker_problems

if TYPE_CHECKING:
    from lora_train.hosts.base import Host


def output_path(config: RunConfig) -> Path:
    """Where the LoRA goes."""
    return Path(config.save.output_dir).expanduser() / f"{config.save.output_name}.safetensors"


def unpacked(config: RunConfig, host: Host) -> RunConfig:
    """The same run; where its folder holds webdataset's shards, on their pictures, unpacked once below the
    host's data folder. Raises LoraTrainError for a damaged shard, or when the disk is full."""
    from lora_train.data.shards import SHARDS, without_shards

    folder = without_shards(config.data.folder, host.data_dir() / SHARDS, host.may_read)
    return config if folder == config.data.folder else replace(config, data=replace(config.data, folder=folder))


def check_run(
    config: RunConfig,
    host: Host,
    stages: Stages = Stages(),
    own_output: Path | None = None,
    known: Sequence[Problem] = (),
) -> Manifest:
    """Check everything a run depends on and raise one LoraTrainError with all problems.

    Writes nothing. Returns the scanned pictures. `own_output` is a file that this run itself wrote; `known` are
    problems that the caller found.
    """
    from lora_train.models.opening import refusals, require_tokenizer
    from lora_train.models.tokenizers import TokenizerSources

    found = [*known]
    found += [p for p in problems(config) if stages.train or not p.where.startswith("save.")]
    found += captioning_problems(config.prepare, host)
    found += server_problems(config.prepare, host) if stages.process else []
    manifest = None
    if config.data.folder or config.data.dataset_config:
        with noting(found, "data.folder"):
            manifest = _pictures(config, host)
    said: list[str] = []
    if config.model.path:
        with noting(found, "model.path"):
            path = allowed(config.model.path, host, "model.path")
            found += refusals(path, config)
            if stages.train or stages.latents:
                require_tokenizer(path, TokenizerSources(host.tokenizers, host.downloads, said.append))
    if stages.train:
        found += _packages(config) + tracker_problems(config)
        wrong, notes = check_previews(config, host)
        found, said = found + wrong, said + notes
        with noting(found, "network"):
            found += _network_files(config, host)
    if stages.train and config.save.output_name and config.save.output_dir:
        with noting(found, "save.output_dir"):
            found += _output_problems(config, host, own_output)
    if stages.shutdown:
        with noting(found, "--shutdown"):
            host.check_shutdown()
    if stages.train or stages.latents:
        with noting(found, "train.device"):
            device = pick_device(config.train.device, auto=host.device())
            require_precision(device, config.train.mixed_precision)
    if found or manifest is None:
        raise LoraTrainError.of(found)
    manifest.notes += said
    return manifest


def _packages(config: RunConfig) -> list[Problem]:
    """What is not installed that a method of the training needs."""
    return [
        Problem(
            f"{method.name} needs the package {method.install}, which is not installed.",
            table.option if isinstance(table, Choice) else method.options[0],
            f"Install it (pip install {method.install}), or choose another.",
        )
        for table in TABLES
        for method in table.active(config)
        if method.missing
    ]


def _pictures(config: RunConfig, host: Host) -> Manifest:
    """The pictures as they are before any preparation, with their masks where the loss is masked and they are known."""
    from lora_train.data.masks import attach_masks

    data = config.data
    for field in ("folder", "reg_data_dir", "in_json", "dataset_config", "mask_folder"):
        if getattr(data, field):
            allowed(getattr(data, field), host, f"data.{field}")
    manifest = read_pictures(data, DEFAULT_REPEATS, host.may_read)
    if not problems(config):  # else they are reported
        assign_parts(manifest, data, config.train.seed, host.may_read)
    if config.train.masked_loss and not config.prepare.operations:
        attach_masks(manifest, Path(data.mask_folder).expanduser() if data.mask_folder else None, host.may_read)
    return manifest


def _network_files(config: RunConfig, host: Host) -> list[Problem]:
    """What is wrong with the LoRA files that the training starts from."""
    named = [(name, "network.base_weights") for name in config.network.base_weights]
    if config.network.network_weights:
        named.append((config.network.network_weights, "network.network_weights"))
    found: list[Problem] = []
    for name, field in named:
        with noting(found, field):
            if not allowed(name, host, field).exists():
                found.append(Problem(f"there is no LoRA file {name}.", field, "Give the path of a .safetensors file."))
    if not named or found:
        return found
    from lora_train.lorafile.reading import read_lora
    from lora_train.train.network import continued_file, start_files

    with noting(found, "network.network_adapter"):
        if config.network.network_weights:
            with noting(found, "network.network_weights"):
                continued_file(config.network)
        for path, adapter in start_files(config.network)[bool(config.network.network_weights) :]:
            with noting(found, "network.base_weights"):
                read_lora(path, adapter=adapter)
    return found


def output_outside(config: RunConfig, host: Host) -> list[Problem]:
    """What is wrong with the folder for the LoRA, of a run requested over the routes."""
    folder = config.save.output_dir
    found: list[Problem] = []
    with noting(found, "save.output_dir"):
        if folder and not host.may_write(Path(folder)):
            what = f"{folder} is outside the folders that LoRAs may be written to over the API."
            fix = f"Choose one below {host.lora_dir()}; in a WebUI, the settings (Train LoRA) can name more folders."
            found.append(Problem(what, "save.output_dir", fix))
    return found + npz_outside(config, host)


def npz_outside(config: RunConfig, host: Host) -> list[Problem]:
    """Latents are written beside the pictures that are trained on: prepared ones, or the person's own. Logs are written
    where the run says."""
    return _latents_outside(config, host) + _logs_outside(config, host)


def _logs_outside(config: RunConfig, host: Host) -> list[Problem]:
    found: list[Problem] = []
    folder = config.save.logging_dir
    with noting(found, "save.logging_dir"):
        if folder and not host.may_write(Path(folder).expanduser()):
            what = f"{folder} is outside the folders that may be written to here."
            found.append(Problem(what, "save.logging_dir", "Leave it empty: the run's folder has the logs."))
    return found


def _latents_outside(config: RunConfig, host: Host) -> list[Problem]:
    data = config.data
    if not data.write_npz or (config.prepare.operations and not data.dataset_config):
        return []
    found: list[Problem] = []
    with noting(found, "data.write_npz"):
        if data.dataset_config or not host.may_write(Path(data.folder).expanduser()):
            what = ".npz files would be written beside the pictures, outside the folders that may be written to here."
            fix = "Leave it out, prepare the pictures first, or use the command line."
            found.append(Problem(what, "data.write_npz", fix))
    return found


def _output_problems(config: RunConfig, host: Host, own_output: Path | None) -> list[Problem]:
    path = output_path(config)
    if not host.may_read(path.parent):
        return [Problem("is outside the folders that may be used from this page.", str(path.parent))]
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        return [Problem("this is a file, not a folder.", str(parent), "Give a folder for save.output_dir.")]
    if not _writable(parent):
        return [
            Problem(
                "this folder cannot be written.",
                str(parent),
                "Allow writing there, or give another for save.output_dir.",
            )
        ]
    if path.exists() and not config.save.overwrite and path != own_output:
        return [Problem("this LoRA exists already.", str(path), "Choose another name, or set save.overwrite.")]
    return []


def _writable(folder: Path) -> bool:
    """Tried out: permissions alone do not tell (read-only file systems)."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
