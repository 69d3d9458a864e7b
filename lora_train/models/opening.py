"""Open a base model, whatever it is: each family's own opening is asked, as its record names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import RunConfig
from lora_train.config.methods import Choice, Method
from lora_train.config.table import options
from lora_train.config.training_methods import TABLES
from lora_train.errors import LoraTrainError, Problem
from lora_train.records.families import FAMILIES, least_factor, newest_first
from lora_train.records.family import DIFFUSION, Family
from lora_train.records.table import load

if TYPE_CHECKING:
    from lora_train.models.base import BaseModel, Look, Opening
    from lora_train.models.prediction import Assumed
    from lora_train.models.tokenizers import TokenizerSources


def look(path: Path) -> Look:
    """What can be known about the base model at `path` without loading it (a pickle has to be read for that).

    Raises LoraTrainError when there is no model that can be trained.
    """
    return _look(path)[1]


def _look(path: Path) -> tuple[Opening, Look]:
    opening, seen = _opening_of(path)
    if seen is None:
        seen = opening.look(path)
    if seen is None:
        raise LoraTrainError("this is no base model of a known family.", str(path), "Give another.")
    return opening, seen


def _opening_of(path: Path) -> tuple[Opening, Look | None]:
    """What opens the model at `path`, and what it saw of it; the last one takes what no other knows, unseen."""
    _require(path)
    *others, last = dict.fromkeys(family.opening for family in newest_first())
    for name in others:
        opening: Opening = load(name)
        seen = opening.look(path)
        if seen is not None:
            return opening, seen
    return load(last), None


def recognise(path: Path) -> str:
    """The family of the base model at `path`; see `look`."""
    return look(path).family


def native_resolution(path: Path) -> int:
    """The side in pixels that the base model at `path` was trained at; see `look`."""
    return look(path).native_resolution


def _require(path: Path) -> None:
    from lora_train.models.hub import is_hub_id
    from lora_train.tensors import GIVE_ANOTHER

    if not path.exists():
        what, fix = "there is no such file or folder.", GIVE_ANOTHER
        if is_hub_id(str(path)):
            what = "there is no such file or folder; a model of the Hugging Face hub has to be on this machine first."
            fix = (
                f"Download it (hf download {path}) and give its folder, or give another .safetensors, .ckpt or folder."
            )
        raise LoraTrainError(what, str(path), fix)
    if not path.is_dir() and not path.is_file():  # a pipe would block forever
        raise LoraTrainError("this is neither a file nor a folder.", str(path), GIVE_ANOTHER)


def assumed_by(config: RunConfig) -> Assumed:
    """What a run's configuration says about its base model."""
    from lora_train.models.prediction import Assumed

    return Assumed.by(config)


def refusals(path: Path, config: RunConfig) -> list[Problem]:
    """Options of `config` that the base model at `path` does not support, each with the reason.

    Raises LoraTrainError as `look` does.
    """
    opening, seen = _look(path)
    family = FAMILIES[seen.family]
    return [*_without_meaning(family, config), *_sizes(family, config), *opening.refusals(seen, config)]


def _without_meaning(family: Family, config: RunConfig) -> list[Problem]:
    """Options that need what the family does not have, where they are not as they are anyway."""
    found = []
    for option in options():
        if option.of(config) == option.default:
            continue
        needed = option.about.needs
        if option.path in family.refused:
            found.append(Problem(family.refused[option.path], option.path, "Leave it out."))
        elif needed and needed not in family.features:
            why, fix = family.lacks(needed)
            found.append(Problem(why, option.path, fix))
    for method, where in _methods(config):
        if method.needs and method.needs not in family.features:
            why, _ = family.lacks(method.needs)
            found.append(Problem(f"{method.name}: {why}", where, "Choose another."))
    if not family.texts and config.network.network_train_text_encoder_only:
        what = f"{family.title} has no text encoder that can be trained."
        found.append(Problem(what, "network.network_train_text_encoder_only", "Leave it out."))
    if not family.npz:
        for name in ("read_npz", "write_npz"):
            if getattr(config.data, name):
                what = f"sd-scripts has no .npz files of latents that are known here for {family.title}."
                found.append(Problem(what, f"data.{name}", "Leave it out."))
    return found


def _methods(config: RunConfig) -> Iterator[tuple[Method, str]]:
    """The methods that options name and the run uses, each with its option: not those that only a method reads which
    is not used itself."""
    used = {path for table in TABLES for method in table.active(config) for path in method.options}
    readable = {path for table in TABLES for method in table.values() for path in method.options}
    for table in TABLES:
        if isinstance(table, Choice) and (table.option in used or table.option not in readable):
            yield from ((method, table.option) for method in table.active(config))


def _sizes(family: Family, config: RunConfig) -> list[Problem]:
    """Sides that this family's latents cannot have, of those that another's can (see `config.validate`)."""
    factor, data = family.latents.factor, config.data
    return [
        Problem(f"{value} is no multiple of {factor}, which {family.title} needs.", f"data.{name}", f"{factor * 8} is.")
        for name in ("resolution", "height", "bucket_reso_steps")
        for value in (getattr(data, name),)
        if value and value % factor and not value % least_factor()
    ]


def require_tokenizer(path: Path, sources: TokenizerSources) -> None:
    """Raise LoraTrainError where the base model at `path` brings no tokenizer and `sources` has none."""
    _opening_of(path)[0].require_tokenizer(path, sources)


def open_model(
    path: Path,
    tokenizers: TokenizerSources | None = None,
    assumed: Assumed | None = None,
    keep_dtype: bool = False,
) -> BaseModel:
    """Load the base model at `path` into CPU memory.

    `tokenizers` is where one may come from for a checkpoint without one (without `tokenizers`, nothing is
    downloaded); `assumed` is what a person says about the model. UNet and text encoders become fp32, ready to
    compute. With `keep_dtype` they stay as they are in the file, memory-mapped, for callers that then move them to a
    device and its dtype. Raises LoraTrainError.
    """
    import torch

    from lora_train.models.prediction import Assumed
    from lora_train.models.tokenizers import TokenizerSources

    opening, _ = _opening_of(path)
    model = opening.open(path, tokenizers or TokenizerSources(), assumed or Assumed())
    family = FAMILIES[model.family]
    if assumed not in (None, Assumed()) and DIFFUSION not in family.features:
        why, fix = family.lacks(DIFFUSION)
        raise LoraTrainError(why, "model.v_parameterization", fix)
    if not keep_dtype:
        model.to(torch.device("cpu"), torch.float32)
    return model
