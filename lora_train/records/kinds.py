"""All kinds of networks. Adding one is a file with its implementation, and one call of `KINDS.register`."""

from __future__ import annotations

from lora_train.records.kind import Kind, Parts, Side, Unread
from lora_train.records.table import Names, Records

LORA = "lora"
"""The kind that every tool reads."""
NORM = "norm"
"""The kind for norms, alongside another one."""

LYCORIS = "lycoris.kohya"
_DOWN, _UP, _MID, _ALPHA = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha"
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_HADA_CORES = ("hada_t1", "hada_t2")
_LEFT, _LEFT_PAIR = "lokr_w1", ("lokr_w1_a", "lokr_w1_b")
_RIGHT, _RIGHT_PAIR = "lokr_w2", ("lokr_w2_a", "lokr_w2_b")
_GLORA = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")
_BLOCKS, _ROTATION = "oft_blocks", "oft_diag"

_DORA = ("dora_wd", "wd_on_output")
_LOKR = ("factor", "decompose_both", "full_matrix", "unbalanced_factorization")
_ROTATED = ("constraint", "rescaled")


def _both_cores_or_none(parts: Parts) -> bool:
    return len(parts.keys() & {*_HADA_CORES}) != 1


def _one_of_three_dimensions(parts: Parts) -> bool:
    """Blocks of four dimensions are BOFT's."""
    blocks = parts.keys() & {_BLOCKS, _ROTATION}
    return len(blocks) == 1 and bool(parts[min(blocks)].ndim == 3)


def _four_dimensions(parts: Parts) -> bool:
    return bool(parts[_BLOCKS].ndim == 4)


def _lokr_inputs(side: Side) -> int:
    return (side(_LEFT) or side(_LEFT_PAIR[1])) * (side(_RIGHT) or side(_RIGHT_PAIR[1]))


def _glora_inputs(side: Side) -> int:
    return max(side(_GLORA[0], 0), side(_GLORA[0]))


def _on_output_of_convolution(parts: Parts) -> bool:
    """The WebUI multiplies these by a column, which does not fit four dimensions."""
    return bool(parts["weight"].ndim == 4 and not bool(parts["on_input"]))


KINDS: Records[Kind] = Records(
    "kind of network",
    (
        Kind(
            name=LORA,
            help="the usual kind; every tool reads it",
            implementation="lora_train.networks.lora:Lora",
            needs=((_DOWN, _UP),),
            may=(_MID, _ALPHA),
            partners=((_DOWN, _UP),),
            scaled=(_DOWN,),
            rank_of=((_DOWN, 0),),
            inputs=lambda side: side(_DOWN),
            decomposable=True,
            scalable=True,
            options=(*_DORA, "use_tucker", "init_lora_weights", "network_dropout"),
            spellings={"locon": {}, "dora": {"dora_wd": True}},
            module="networks.lora",
            lycoris="locon",
            modules=("networks.lora", LYCORIS),
            unread=(),
        ),
        Kind(
            name="loha",
            help="rank r^2 at twice the size",
            implementation="lora_train.networks.loha:Loha",
            needs=(_HADA,),
            may=(*_HADA_CORES, _ALPHA),
            fits=_both_cores_or_none,
            partners=(_HADA,),
            scaled=(_HADA[1],),
            rank_of=((_HADA[1], 0),),
            inputs=lambda side: side(_HADA[1]),
            decomposable=True,
            scalable=True,
            options=(*_DORA, "use_tucker"),
            module=LYCORIS,
            modules=("networks.loha",),
            unread=(),
        ),
        Kind(
            name="lokr",
            help="the smallest files",
            implementation="lora_train.networks.lokr:Lokr",
            needs=((_LEFT, _RIGHT), (_LEFT, *_RIGHT_PAIR), (*_LEFT_PAIR, _RIGHT), (*_LEFT_PAIR, *_RIGHT_PAIR)),
            may=("lokr_t2", _ALPHA),
            partners=(_LEFT_PAIR, _RIGHT_PAIR),
            scaled=(_LEFT_PAIR[1], _RIGHT_PAIR[1]),
            rank_of=((_RIGHT_PAIR[1], 0), (_LEFT_PAIR[1], 0)),
            inputs=_lokr_inputs,
            decomposable=True,
            scalable=True,
            options=(*_DORA, "use_tucker", *_LOKR),
            module=LYCORIS,
            modules=("networks.lokr",),
            unread=(),
        ),
        Kind(
            name="oft",
            help="preserves the angles between neurons; the dimension is the block size",
            implementation="lora_train.networks.oft:Oft",
            needs=((_BLOCKS,), (_ROTATION,)),
            may=("rescale", _ALPHA),
            fits=_one_of_three_dimensions,
            options=_ROTATED,
            module=LYCORIS,
            lycoris="diag-oft",
            modules=("networks.oft",),
            unread=(),
        ),
        Kind(
            name="boft",
            help="like oft, with fewer parameters",
            implementation="lora_train.networks.boft:Boft",
            needs=((_BLOCKS,),),
            may=("rescale", _ALPHA),
            fits=_four_dimensions,
            options=_ROTATED,
            module=LYCORIS,
            unread=(),
        ),
        Kind(
            name="ia3",
            help="one factor per channel: a few kilobytes; needs a high learning rate",
            implementation="lora_train.networks.ia3:Ia3",
            needs=(("weight", "on_input"),),
            numbers=("on_input",),
            ranked=False,
            options=("train_on_input",),
            module=LYCORIS,
            unread=(
                Unread(
                    "(IA)^3 on convolutions",
                    _on_output_of_convolution,
                    "LyCORIS can; with train_on_input the WebUI can as well",
                ),
            ),
        ),
        Kind(
            name="glora",
            help="LyCORIS' generalised LoRA, for completeness",
            implementation="lora_train.networks.glora:Glora",
            needs=(_GLORA,),
            may=(_ALPHA,),
            partners=(_GLORA,),
            scaled=(_GLORA[0],),
            inputs=_glora_inputs,
            module=LYCORIS,
            unread=(Unread("GLoRA", lambda parts: True, "ComfyUI and LyCORIS can"),),
        ),
        Kind(
            name="full",
            help="the full difference: large files, everything can change",
            implementation="lora_train.networks.full:Full",
            needs=(("diff",), ("diff_b",)),
            inputs=lambda side: side("diff"),
            ranked=False,
            scalable=True,
            module=LYCORIS,
            unread=(),
        ),
        Kind(
            name=NORM,
            help="the norm layers alone, for completeness",
            implementation="lora_train.networks.norm:Norm",
            needs=(("w_norm",), ("b_norm",)),
            ranked=False,
            scalable=True,
            module=LYCORIS,
            unread=(),
        ),
    ),
)
"""The kinds by name, in the order in which they are tried on a module."""


def kind_within(parts: Parts) -> Kind | None:
    """The kind of a module that may have other parts as well; of several kinds the one with most of the parts."""
    found = [kind for kind in KINDS.values() if kind.recognises(kind.its(parts))]
    return max(found, key=lambda kind: len(kind.its(parts)), default=None)


def numbers() -> frozenset[str]:
    """The last parts of keys whose tensors are a single number; all others have dimensions and values."""
    return frozenset((_ALPHA, "scalar", *(part for kind in KINDS.values() for part in kind.numbers)))


def kinds_with(option: str) -> Names:
    """The kinds that this option of the network applies to, if it does not apply to all."""
    return KINDS.names(lambda kind: option in kind.options)
