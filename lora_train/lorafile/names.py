"""Names of modules in LoRA files: a prefix and the module's path, with underscores for dots (kohya's sd-scripts).

An underscore is either a dot or a part of a word, so parsing a name needs the words. SDXL's UNet has two names:
its original code's (`sgm`: `input_blocks`, which kohya writes) and diffusers' (`down_blocks`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

from lora_train.models.ldm_keys import Translator, UnetShape, unet_pairs
from lora_train.records.families import FAMILIES, is_text, side_of, sides
from lora_train.records.family import Family

UNET = FAMILIES["sd1"].denoiser
SD1 = UnetShape(2, (True, True, True, False))
SDXL = UnetShape(2, (False, True, True))
_TRANSLATORS = {shape: Translator(unet_pairs(shape)) for shape in (SD1, SDXL)}

_DEEP = re.compile(r"transformer_blocks[._](?:[2-9]|\d\d)")
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.|(middle)_block\.")
_SGM = re.compile(r"(?:^|[._])(?:input_blocks|middle_block|output_blocks)[._]")


def split_name(name: str) -> tuple[str, str]:
    """The prefix (with its underscore) and the rest of a module's name; the prefix is empty if it is unknown."""
    side = side_of(name)
    prefix = "" if side is None else f"{side.prefix}_"
    return prefix, name[len(prefix) :]


def component_of(name: str, family: Family | None = None) -> str:
    """diffusers' name of the part of the model that contains a module, for this family if it has such a prefix; "" if
    the prefix is unknown."""
    side = side_of(name)
    own = [one for one in family.sides if side is not None and one.prefix == side.prefix] if family is not None else []
    return own[0].component if own else "" if side is None else side.component


def components_of(name: str) -> list[str]:
    """The same for all families: two may have one prefix for parts with different names in diffusers."""
    side = side_of(name)
    return [one.component for one in sides() if side is not None and one.prefix == side.prefix]


def flat_name(prefix: str, path: str) -> str:
    """The name of the module at `path` ("down_blocks.0. ...")."""
    side = side_of(prefix)
    return prefix + (path if side is None else side.spelled(path)).replace(".", "_")


def path_of(name: str) -> str | None:
    """The module's path with dots; None if a word is unknown."""
    prefix, rest = split_name(name)
    words: list[str] = []
    known, position = _words(_vocabulary(prefix)), 0
    while position < len(rest):
        found = known.match(rest, position)
        if found is None:
            return None
        words.append(found[1])
        position = found.end()
    return ".".join(words) or None


def _vocabulary(prefix: str) -> frozenset[str]:
    """The words of all sides with this prefix; without a prefix those of every family."""
    return frozenset().union(*(side.words for side in sides() if not prefix or f"{side.prefix}_" == prefix))


@functools.lru_cache(maxsize=32)
def _words(words: frozenset[str]) -> re.Pattern[str]:
    return re.compile(rf"({'|'.join([*sorted(map(re.escape, words), key=len, reverse=True), '[0-9]+'])})(?:_|$)")


def has_deep_transformers(names: Iterable[str]) -> bool:
    """Whether there are transformers of more than two layers, which only the real SDXL has, not small models of its
    design."""
    return any(_DEEP.search(name) for name in names)


def looks_like_sdxl(names: Iterable[str]) -> bool:
    """Whether modules' names as read are SDXL's: two text encoders, `sgm`'s blocks or deep transformers."""
    return any(name.startswith(("lora_te1_", "lora_te2_")) or _SGM.search(name) or _DEEP.search(name) for name in names)


def to_diffusers(path: str, sdxl: bool) -> str:
    """diffusers' path of a UNet's module, from either naming."""
    return _TRANSLATORS[SDXL if sdxl else SD1].to_diffusers(path)


def canonical_path(path: str, sdxl: bool) -> str:
    """A UNet module's path in kohya's files: `sgm`'s for SDXL, otherwise diffusers'."""
    return _TRANSLATORS[SDXL].to_ldm(path) if sdxl else _TRANSLATORS[SD1].to_diffusers(path)


def block_of(name: str, sdxl: bool) -> str:
    """ "IN00" ..., "M00", "OUT00" ... as in the original code, "BASE" outside of them; "TE", "TE1", "TE2" for text."""
    prefix, rest = split_name(name)
    if is_text(name) or not prefix:
        return prefix.removeprefix("lora_").rstrip("_").upper()
    path = path_of(name) or rest
    found = _BLOCK.match(_TRANSLATORS[SDXL if sdxl else SD1].to_ldm(path) + ".")
    if found is None:
        return "BASE"
    return "M00" if found[3] else f"{'IN' if found[1] == 'input' else 'OUT'}{int(found[2]):02d}"


def block_names(family: Family | None, names: Iterable[str]) -> Callable[[str], str]:
    """The name of each module's block, for a LoRA with modules of these names, made for this family."""
    if family is None or family.owns is None:
        sdxl = looks_like_sdxl(names)
        return lambda name: block_of(name, sdxl)

    def of(name: str) -> str:
        number = None if family.blocks is None else family.blocks.number(name)
        prefix = split_name(name)[0]
        if number is None:
            return prefix.removeprefix("lora_").rstrip("_").upper() if is_text(name) else "BASE"
        return f"B{number:02d}"

    return of


def diffusers_paths(family: Family | None, names: Iterable[str]) -> Callable[[str], str]:
    """diffusers' path of each of the denoiser's modules, from its path in files; see `block_names`."""
    if family is None or family.owns is None:
        sdxl = looks_like_sdxl(names)
        return lambda path: to_diffusers(path, sdxl)
    return lambda path: path
