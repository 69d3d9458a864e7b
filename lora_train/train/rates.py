"""The learning rate of each part of the base that is trained."""

from __future__ import annotations

from collections.abc import Sequence

from lora_train.config import RunConfig
from lora_train.models.names import UNET


def learning_rates(config: RunConfig, text_prefixes: Sequence[str], denoiser: str = UNET) -> dict[str, float]:
    """The learning rate of each root whose networks are trained; roots with a rate of 0 are left out.

    `text_prefixes` are the model's text encoders; if there are several, the first two can have their own rates.
    """
    network, train = config.network, config.train
    several = len(text_prefixes) > 1
    own = (train.text_encoder_lr1, train.text_encoder_lr2, *[None] * len(text_prefixes)) if several else (None,)
    rates = {}
    if not network.network_train_text_encoder_only:
        rates[denoiser] = train.unet_lr
    if not network.network_train_unet_only:
        rates |= {prefix: train.text_encoder_lr if rate is None else rate for prefix, rate in zip(text_prefixes, own)}
    return {prefix: rate for prefix, rate in rates.items() if rate}
