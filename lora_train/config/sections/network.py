"""The network that is trained."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.choices import DECOMPOSED, KINDS, SCALABLE, STARTS
from lora_train.config.option import COMMON, NETWORK, NETWORK_MORE, REPEATED, option
from lora_train.config.registered import Section
from lora_train.config.usual import DEFAULT_DIM
from lora_train.records.families import block_totals, titles
from lora_train.records.kinds import kinds_with

_COUNTS = ", ".join(f"{total} for {titles(families)}" for total, families in block_totals().items())
_BLOCKS = f"one for each UNet block in kohya's order: {_COUNTS}"
_CURVES = "numbers separated by commas, or sine, cosine, linear, reverse_linear, zeros"


@dataclass(frozen=True)
class NetworkOptions(Section, section="network"):
    """The network that is trained."""

    kind: str = option(
        "lora",
        "Kind of network",
        "kind of network; every tool can read lora",
        NETWORK,
        COMMON,
        choices=KINDS,
        flags=("--algo", "--type"),
        by_rule=True,
    )
    network_dim: int | None = option(
        None,
        "Dimension (rank)",
        "network dimension, also known as rank",
        NETWORK,
        COMMON,
        range=(1, 4096),
        unset=str(DEFAULT_DIM),
        flags=("--dim",),
        metavar="N",
        kohya=("network_dim",),
        by_rule=True,
    )
    network_alpha: float | None = option(
        None,
        "Alpha",
        "scale is alpha / dim; 0 means dim / 2",
        NETWORK,
        COMMON,
        range=(0, 65_536),
        unset="half of the dimension",
        flags=("--alpha",),
        metavar="ALPHA",
        kohya=("network_alpha",),
        by_rule=True,
    )
    conv_dim: int | None = option(
        None,
        "Dimension of convolutions",
        "also train 3x3 convolutions (LoCon), with this dimension; 0: never",
        NETWORK,
        range=(0, 4096),
        unset="off, except for small base models",
        metavar="N",
        kohya=("conv_dim",),
    )
    conv_alpha: float | None = option(
        None,
        "Alpha of convolutions",
        "alpha of the convolutions; 0 means half of their dimension",
        NETWORK,
        range=(0, 65_536),
        unset="half of their dimension",
        metavar="ALPHA",
        kohya=("conv_alpha",),
    )
    network_train_unet_only: bool = option(
        False,
        "UNet only",
        "train the UNet only, not the text encoder",
        NETWORK,
        flags=("--unet-only",),
        kohya=("network_train_unet_only",),
    )
    network_train_text_encoder_only: bool = option(
        False,
        "Text encoder only",
        "train the text encoder only, not the UNet",
        NETWORK,
        flags=("--text-only",),
        kohya=("network_train_text_encoder_only",),
    )
    dora_wd: bool = option(
        False,
        "DoRA",
        "weight decomposition (DoRA) around lora, loha or lokr",
        NETWORK_MORE,
        kohya=("dora_wd",),
        kinds=DECOMPOSED,
        by_rule=True,
    )
    wd_on_output: bool = option(
        False,
        "DoRA norm over outputs",
        "DoRA norm over output rows, as in the paper; off: over input columns, which the WebUI's Lora code reads",
        NETWORK_MORE,
        kohya=("wd_on_output",),
        kinds=DECOMPOSED,
    )
    rs_lora: bool = option(
        False, "Rank-stabilised scale", "rsLoRA: scale is alpha / sqrt(dim)", NETWORK_MORE, kohya=("rs_lora",)
    )
    use_tucker: bool = option(
        False,
        "Tucker form",
        "Tucker decomposition of convolutions",
        NETWORK_MORE,
        kohya=("use_tucker",),
        kinds=kinds_with("use_tucker"),
        by_rule=True,
    )
    factor: int = option(
        -1,
        "Factor of LoKr",
        "size of LoKr's smaller matrix; -1: close to the square root",
        NETWORK_MORE,
        metavar="N",
        kohya=("factor",),
        kinds=kinds_with("factor"),
        by_rule=True,
    )
    decompose_both: bool = option(
        False,
        "Decompose both matrices",
        "decompose LoKr's smaller matrix as well",
        NETWORK_MORE,
        kohya=("decompose_both",),
        kinds=kinds_with("decompose_both"),
        by_rule=True,
    )
    full_matrix: bool = option(
        False,
        "Full matrices",
        "decompose neither of LoKr's matrices",
        NETWORK_MORE,
        kohya=("full_matrix",),
        kinds=kinds_with("full_matrix"),
        by_rule=True,
    )
    unbalanced_factorization: bool = option(
        False,
        "Unbalanced factorization",
        "swap the factors of LoKr's output side",
        NETWORK_MORE,
        kohya=("unbalanced_factorization",),
        kinds=kinds_with("unbalanced_factorization"),
    )
    constraint: float = option(
        0.0,
        "Constraint",
        "bound on the norm of the rotation; 0: none",
        NETWORK_MORE,
        range=(0, 1000),
        kohya=("constraint",),
        kinds=kinds_with("constraint"),
        by_rule=True,
    )
    rescaled: bool = option(
        False,
        "Rescaled",
        "also train a scale for each output",
        NETWORK_MORE,
        kohya=("rescaled",),
        kinds=kinds_with("rescaled"),
        by_rule=True,
    )
    train_on_input: bool = option(
        False,
        "Train on input",
        "scale the inputs of layers, not their outputs",
        NETWORK_MORE,
        kohya=("train_on_input",),
        kinds=kinds_with("train_on_input"),
        by_rule=True,
    )
    train_norm: bool = option(
        False,
        "Train norms",
        "also train the UNet's norm layers, alongside another kind of network",
        NETWORK_MORE,
        kohya=("train_norm",),
    )
    init_lora_weights: str = option(
        "default",
        "Initial weights",
        "how the matrices are initialised",
        NETWORK_MORE,
        choices=STARTS,
        kinds=kinds_with("init_lora_weights"),
    )
    network_dropout: float = option(
        0.0,
        "Dropout",
        "probability that a value inside the LoRA is dropped in a step",
        NETWORK,
        range=(0, 0.99),
        flags=("--dropout",),
        metavar="P",
        kohya=("network_dropout",),
        kinds=kinds_with("network_dropout"),
    )
    rank_dropout: float = option(
        0.0,
        "Rank dropout",
        "probability that a rank is dropped in a step",
        NETWORK_MORE,
        range=(0, 0.99),
        metavar="P",
        kohya=("rank_dropout",),
    )
    module_dropout: float = option(
        0.0,
        "Module dropout",
        "probability that a whole module is dropped in a step",
        NETWORK_MORE,
        range=(0, 0.99),
        metavar="P",
        kohya=("module_dropout",),
    )
    block_dims: tuple[int, ...] = option(
        (), "Block dimensions", f"dimensions, {_BLOCKS}", NETWORK_MORE, metavar="LIST", kohya=("block_dims",)
    )
    block_alphas: tuple[float, ...] = option(
        (),
        "Block alphas",
        "alphas, one for each block",
        NETWORK_MORE,
        metavar="LIST",
        kohya=("block_alphas",),
    )
    conv_block_dims: tuple[int, ...] = option(
        (),
        "Block dimensions of convolutions",
        "dimensions of the convolutions, one for each block",
        NETWORK_MORE,
        metavar="LIST",
        kohya=("conv_block_dims",),
    )
    conv_block_alphas: tuple[float, ...] = option(
        (),
        "Block alphas of convolutions",
        "alphas of the convolutions, one for each block",
        NETWORK_MORE,
        metavar="LIST",
        kohya=("conv_block_alphas",),
    )
    down_lr_weight: str = option(
        "",
        "Learning rate factors, down blocks",
        f"learning rate factors of the down blocks: {_CURVES}",
        NETWORK_MORE,
        metavar="LIST",
        kohya=("down_lr_weight",),
    )
    mid_lr_weight: str = option(
        "",
        "Learning rate factors, middle blocks",
        "learning rate factors of the middle blocks",
        NETWORK_MORE,
        metavar="LIST",
        kohya=("mid_lr_weight",),
    )
    up_lr_weight: str = option(
        "",
        "Learning rate factors, up blocks",
        "learning rate factors of the up blocks",
        NETWORK_MORE,
        metavar="LIST",
        kohya=("up_lr_weight",),
    )
    block_lr_zero_threshold: float = option(
        0.0,
        "Block learning rate threshold",
        "blocks with a learning rate factor up to this are not trained",
        NETWORK_MORE,
        range=(0, 100),
        kohya=("block_lr_zero_threshold",),
    )
    network_rules: tuple[str, ...] = option(
        (),
        "Rules by module name",
        "'PATTERN: dim=8 alpha=4 lr=1e-5 kind=lokr' or 'PATTERN: off', for modules whose name contains the pattern; "
        "the first match applies",
        NETWORK,
        flags=("--rule",),
        metavar="RULE",
        written=REPEATED,
    )
    loraplus_lr_ratio: float | None = option(
        None,
        "LoRA+ ratio",
        "LoRA+: learning rate of the up matrices, as a multiple of the others'",
        NETWORK_MORE,
        range=(0, 1000),
        unset="1",
        metavar="RATIO",
        kohya=("loraplus_lr_ratio",),
    )
    loraplus_unet_lr_ratio: float | None = option(
        None,
        "LoRA+ ratio, UNet",
        "LoRA+ ratio of the UNet",
        NETWORK_MORE,
        range=(0, 1000),
        unset="the general LoRA+ ratio",
        metavar="RATIO",
        kohya=("loraplus_unet_lr_ratio",),
    )
    loraplus_text_encoder_lr_ratio: float | None = option(
        None,
        "LoRA+ ratio, text encoder",
        "LoRA+ ratio of the text encoder",
        NETWORK_MORE,
        range=(0, 1000),
        unset="the general LoRA+ ratio",
        metavar="RATIO",
        kohya=("loraplus_text_encoder_lr_ratio",),
    )
    scale_weight_norms: float | None = option(
        None,
        "Max norm",
        "max norm regularisation: scale each module's change down to this norm; 1 is usual",
        NETWORK,
        range=(1e-6, 1e6),
        unset="no limit",
        flags=("--max-norm",),
        metavar="NORM",
        kohya=("scale_weight_norms",),
        kinds=SCALABLE,
        metadata="ss_scale_weight_norms",
    )
    network_weights: str = option(
        "",
        "Continue from",
        "LoRA file to continue training from, with its kinds and ranks",
        NETWORK,
        flags=("--continue",),
        metavar="FILE",
        kohya=("network_weights",),
    )
    network_adapter: str = option(
        "",
        "Adapter",
        "adapter to use if a LoRA file to continue from or to merge contains several",
        NETWORK,
        flags=("--adapter",),
        metavar="NAME",
    )
    base_weights: tuple[str, ...] = option(
        (),
        "Merged LoRAs",
        "LoRA file to merge into the base model before training",
        NETWORK,
        flags=("--merge-base",),
        metavar="FILE[:STRENGTH]",
        written=REPEATED,
        kohya=("base_weights",),
    )
    base_weights_multiplier: tuple[float, ...] = option(
        (),
        "Strengths of merged LoRAs",
        "strength of each merged LoRA; missing ones are 1",
        NETWORK,
        flags=(),
        through="--merge-base",
        kohya=("base_weights_multiplier",),
    )
