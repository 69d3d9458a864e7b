"""The captioners of a run: the host's models, or our own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import PrepareOptions
from lora_train.device import kind_of, pick_device
from lora_train.errors import LoraTrainError, Problem
from lora_train.hosts.base import CAPTION_KINDS

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.captions.captioners.registry import CaptionerOptions
    from lora_train.hosts.base import Host

_TOLD_WHAT = ("transformers", "wd14", "command")
"""The kinds that need a model or a command."""
Ask = Callable[["Iterable[Image.Image]"], "Iterator[str]"]


def asked(kind: str, options: PrepareOptions, role: str, host: Host) -> Ask | None:
    """The captioner of this kind; None where the host has no such captioner, or none is wanted."""
    from lora_train.captions.captioners.registry import captions

    if kind == "none" or (kind in CAPTION_KINDS and kind not in host.caption_kinds()):
        return None
    if kind in CAPTION_KINDS:
        return lambda pictures: host.caption(pictures, kind)
    return lambda pictures: captions(kind, _captioner_options(options, role, _device(options, host)), pictures)


def captioning_problems(options: PrepareOptions, host: Host) -> list[Problem]:
    """What is wrong with captioner, tagger and template here, as far as it shows without loading a model.

    A command is run only where the host allows it: a WebUI's page may be open to others.
    """
    from lora_train.captions.captioners.registry import lacking
    from lora_train.pictures.template import check_template

    found: list[Problem] = []
    if "interrogate" not in options.operations:
        return found
    try:
        check_template(options.caption_template)
    except LoraTrainError as error:
        found += error.problems
    for role, kind in (("captioner", options.captioner), ("tagger", options.tagger)):
        given = _captioner_options(options, role, "cpu")
        missing = kind in _TOLD_WHAT and not (given.model or given.command)  # config.problems says so
        if kind in ("none", *CAPTION_KINDS) or missing:
            continue
        if kind == "command" and not host.may_run_programs():
            what = "a program of yours runs from the command line only: this WebUI's settings do not allow it."
            fix = "Choose another captioner, or allow it on the settings page (Train LoRA)."
            found.append(Problem(what, f"prepare.{role}_command", fix))
        elif kind != "command" and given.model and not host.may_read(Path(given.model)):
            found.append(Problem("is outside the folders that may be used from this page.", f"prepare.{role}_model"))
        elif problem := lacking(kind, given):
            found.append(problem)
    try:
        _device(options, host)
    except LoraTrainError as error:
        found += error.problems
    return found


def server_problems(options: PrepareOptions, host: Host) -> list[Problem]:
    """Why the WebUI of --server cannot be used, where an operation needs it; checked before any picture is
    processed."""
    kinds = (options.captioner, options.tagger) if "interrogate" in options.operations else ()
    needed = {"upscale", "restore"} & {*options.operations} or {*CAPTION_KINDS} & {*kinds}
    return host.unreachable() if needed else []


def _captioner_options(options: PrepareOptions, role: str, device: str) -> CaptionerOptions:
    from lora_train.captions.captioners.registry import CaptionerOptions

    model, command = getattr(options, f"{role}_model"), getattr(options, f"{role}_command")
    return CaptionerOptions(model, device, command, options.tag_threshold, options.character_threshold, options)


def _device(options: PrepareOptions, host: Host) -> str:
    """Raises LoraTrainError where there is no such device."""
    picked = pick_device(options.caption_device, "prepare.caption_device", host.device())
    return picked if options.caption_device != "auto" or kind_of(picked) == "cuda" else "cpu"
