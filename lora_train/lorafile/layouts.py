"""The layouts of LoRA files as tables, and the parsing of keys with them.

Sources: kohya-ss sd-scripts, LyCORIS, diffusers' `loaders/lora_*`, peft's `utils/save_and_load.py`, OneTrainer,
ai-toolkit, ComfyUI's `LoraSave`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lora_train.lorafile.names import path_of, split_name
from lora_train.records.families import sides
from lora_train.records.kinds import KINDS
from lora_train.showing import as_shown


def roots() -> list[tuple[str, str]]:
    """Prefixes of dotted keys, the longest first, and kohya's prefix for each: diffusers', peft's and others'.

    Parts of two families have the same name there: `understanding` corrects the prefix once it knows the family.
    """
    found: dict[str, str] = {}
    for side in sides():
        name = side.component
        for root in (f"{PEFT_WRAPPER}{name}.", f"{name}.{PEFT_WRAPPER}", f"{name}.", *side.dialects):
            found.setdefault(root, f"{side.prefix}_")
    return sorted(found.items(), key=lambda one: -len(one[0]))


BARE_ROOTS = (
    (re.compile(r"(?:down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)\."), "lora_unet_"),
    (re.compile(r"(?:conv_in|conv_out|time_embedding|add_embedding)\."), "lora_unet_"),
    (re.compile(r"(?:text_model\.|encoder\.layers\.)"), "lora_te_"),
)
"""Paths without such a prefix, as peft and the oldest diffusers write them for one model."""

OFT_PREFIX = "oft_unet_"
"""sd-scripts' `networks.oft`. Its alpha is a bound too, but 0 allows no rotation at all."""

PEFT_WRAPPER = "base_model.model."
"""peft's prefix of a path."""

OLD_SPELLINGS = (
    (re.compile(r"\.(?:processor\.)?to_([qkv])_lora\.(?=(?:down|up)\.)"), r".to_\1.lora."),
    (re.compile(r"\.(?:processor\.)?to_out_lora\.(?=(?:down|up)\.)"), ".to_out.0.lora."),
    (re.compile(r"\.self_attn\.to_([qkv])\.lora\."), r".self_attn.\1_proj.lora."),
    (re.compile(r"\.self_attn\.to_out\.0\.lora\."), ".self_attn.out_proj.lora."),
)
"""diffusers' attention processors, up to 0.20: the names of layer and network combined."""

DOWN, UP, MID, ALPHA, DORA = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale"

LORA_BIAS = "lora_up.bias"
"""peft's `lora_B.bias` (`lora_bias=True`), which the file's alpha scales as well."""

_NAMED = r"(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?"
ADAPTER_ENDINGS = (
    (re.compile(rf"lora_(?:A|down){_NAMED}\.weight"), DOWN),
    (re.compile(rf"lora_(?:B|up){_NAMED}\.weight"), UP),
    (re.compile(rf"lora_(?:B|up){_NAMED}\.bias"), LORA_BIAS),
    (re.compile(rf"lora_magnitude_vector{_NAMED}(?:\.weight)?"), DORA),
)
"""Spellings of a key's last part that may name one of several adapters: peft calls the first "default", diffusers
"default_0", and people choose their own names."""

ENDINGS = {
    "lora.down.weight": DOWN,
    "lora.up.weight": UP,
    "lora_linear_layer.down.weight": DOWN,
    "lora_linear_layer.up.weight": UP,
    "lora_conv2d_layer.down.weight": DOWN,
    "lora_conv2d_layer.up.weight": UP,
}
"""Other spellings of a key's last part."""

SPARSE = ("bias_indices", "bias_values", "bias_size")
"""The sparse matrix that LyCORIS' extraction keeps of the difference beside the low rank."""

BESIDE = frozenset((ALPHA, DORA, LORA_BIAS, "scalar", *SPARSE, "diff_b", "bm.weight"))
"""The last parts of keys besides those of a kind of network, in kohya's and LyCORIS' files."""

_MAX_NAMED = 3


@dataclass(frozen=True)
class Key:
    """One parsed key of a file."""

    prefix: str
    path: str
    """Dotted, or flat if kohya's name could not be split."""
    part: str
    layout: str
    spelled: str
    """The module's name in the file."""
    adapter: str | None = None
    """The name of peft's adapter, "" if it has none; None for parts that never have one."""
    magnitude: bool = False
    """peft's DoRA magnitudes: (out,) or (1, out, 1, 1) where LyCORIS has (out, 1[, 1, 1])."""


def named(keys: Iterable[str]) -> str:
    """A few of the keys, for a message."""
    some = list(keys)
    shown = ", ".join(as_shown(key[:120], lines=False) for key in some[:_MAX_NAMED])
    return shown + (" ..." if len(some) > _MAX_NAMED else "")


def split_key(key: str) -> Key | None:
    """The parsed key; None if it does not belong to a network."""
    return _split_flat(key) or _split_dotted(key)


def _split_flat(key: str) -> Key | None:
    """kohya's and LyCORIS' keys: everything before the first dot is the module."""
    module, _, ending = key.partition(".")
    name = module
    if name.startswith("lycoris_"):  # LyCORIS used without a trainer
        rest = name.removeprefix("lycoris_")
        name = ("lora_te_" if rest.startswith("text_model") else "lora_unet_") + rest
    elif name.startswith(OFT_PREFIX):
        name = "lora_unet_" + name.removeprefix(OFT_PREFIX)
    prefix, rest = split_name(name)
    part, adapter = _part(ending)
    if not prefix or not rest or not (part in BESIDE or any(part in kind.parts for kind in KINDS.values())):
        return None
    return Key(prefix, path_of(name) or rest, part, "kohya", module, adapter, _is_magnitude(ending))


def _split_dotted(key: str) -> Key | None:
    """diffusers', peft's and ComfyUI's keys: the module's path with dots, then the network's part."""
    modern = key
    for pattern, replacement in OLD_SPELLINGS:
        modern = pattern.sub(replacement, modern)
    found = _ending(frozenset().union(*(kind.parts for kind in KINDS.values()))).search(modern)
    if found is None:
        return None
    module, ending = modern[: found.start()], found[1]
    placed = _place(module)
    if placed is None:
        return None
    part, adapter = _part(ending)
    layout = "peft" if PEFT_WRAPPER in module else "diffusers"
    return Key(*placed, part, layout, module, adapter, _is_magnitude(ending))


def _part(ending: str) -> tuple[str, str | None]:
    """kohya's spelling of a key's last part, and the adapter named in it."""
    for pattern, part in ADAPTER_ENDINGS:
        found = pattern.fullmatch(ending)
        if found:
            return part, found["adapter"] or ""
    return ENDINGS.get(ending, ending), None


def _is_magnitude(ending: str) -> bool:
    return ending.startswith("lora_magnitude_vector")


def _place(module: str) -> tuple[str, str] | None:
    """kohya's prefix and the path of a module with a dotted name."""
    for beginning, prefix in roots():
        if module.startswith(beginning):
            return prefix, module[len(beginning) :]
    bare = module.removeprefix(PEFT_WRAPPER)
    return next(((prefix, bare) for pattern, prefix in BARE_ROOTS if pattern.match(bare)), None)


_UNNAMED = [pattern.pattern.replace("?P<adapter>", "?:") for pattern, _ in ADAPTER_ENDINGS]


@functools.lru_cache(maxsize=8)
def _ending(parts: frozenset[str]) -> re.Pattern[str]:
    """A pattern of a dotted key's ending, for kinds with these parts. The longest one is found, as it starts first."""
    endings = sorted({*ENDINGS, *BESIDE, *parts} - {"weight"})
    return re.compile(rf"\.({'|'.join([*_UNNAMED, *map(re.escape, endings)])})\Z")
