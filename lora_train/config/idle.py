"""Options that are set but have no effect with the others: no error, but the person should know."""

from __future__ import annotations

from collections.abc import Iterator

from lora_train.config.methods import Choice, is_default, value_at
from lora_train.config.run import RunConfig
from lora_train.config.training_methods import OPTIMIZERS, TABLES


def idle_notes(config: RunConfig) -> list[str]:
    """A note for each such option of `config`."""
    idle = [*_idle(config), *_of_methods(config), *_schedule(config)]
    return [f"{field} has no effect {why}." for field, why in idle] + _warmup(config)


def _idle(config: RunConfig) -> list[tuple[str, str]]:
    data, network, train = config.data, config.network, config.train
    no_text, no_unet = network.network_train_unet_only, network.network_train_text_encoder_only
    text_rates = ("text_encoder_lr", "text_encoder_lr1", "text_encoder_lr2", "stop_text_encoder_training")
    limits = [name for name in ("min_bucket_reso", "max_bucket_reso") if getattr(data, name) is not None]
    found = []
    if no_text:
        found += [(f"train.{name}", "since no text encoder is trained") for name in text_rates if getattr(train, name)]
    if no_unet and train.unet_lr:
        found.append(("train.unet_lr", "since the UNet is not trained"))
    varied = data.shuffle_caption or data.caption_tag_dropout_rate or data.token_warmup_step
    for name in ("keep_tokens", "keep_tokens_separator", "secondary_separator"):
        if getattr(data, name) and not varied:
            found.append((f"data.{name}", "without data.shuffle_caption or another change of captions"))
    if data.token_warmup_min != 1 and not data.token_warmup_step:
        found.append(("data.token_warmup_min", "without data.token_warmup_step"))
    if data.dataset_config and data.reg_data_dir:
        found.append(("data.reg_data_dir", "with data.dataset_config, where is_reg names such folders"))
    for name in ("unmasked_weight", "normalize_masked_area_loss"):
        if getattr(train, name) and not train.masked_loss:
            found.append((f"train.{name}", "without train.masked_loss"))
    if data.validation_seed is not None and not data.validation_split:
        found.append(("data.validation_seed", "without data.validation_split"))
    if data.bucket_no_upscale:
        found += [(f"data.{name}", "with data.bucket_no_upscale, as in sd-scripts") for name in limits]
    if data.dataset_config and data.repeats is not None:
        found.append(("data.repeats", "with data.dataset_config, which has its own num_repeats"))
    if train.checkpointing_share is not None and train.gradient_checkpointing is False:
        found.append(("train.checkpointing_share", "without train.gradient_checkpointing"))
    if network.conv_alpha is not None and not (network.conv_dim or network.network_weights or network.network_rules):
        found.append(("network.conv_alpha", "without network.conv_dim"))
    if not (config.preview.prompts or config.preview.sample_prompts):
        names = [name for name in ("sample_every_n_steps", "sample_every_n_epochs") if getattr(config.preview, name)]
        found += [(f"preview.{name}", "without a prompt for the previews") for name in names]
    return found


def _of_methods(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The options of losses, noises and other methods that are not used."""
    for table in TABLES:
        used = {path for method in table.active(config) for path in method.options}
        switches = {path: method.options[0] for method in table.values() for path in method.options}
        for path, switch in switches.items():
            if path not in used and not is_default(config, path):
                chosen = table.option if isinstance(table, Choice) else ""
                yield path, f"with {chosen} {value_at(config, chosen)}" if chosen else f"without {switch}"


def _schedule(config: RunConfig) -> Iterator[tuple[str, str]]:
    """A schedule that was chosen for an optimizer that needs none."""
    if any(one.own_schedule for one in OPTIMIZERS.active(config)) and not is_default(config, "train.lr_scheduler"):
        yield "train.lr_scheduler", f"with train.optimizer {config.train.optimizer}, which needs a constant rate"


def _warmup(config: RunConfig) -> list[str]:
    warmup, steps = config.train.lr_warmup_steps, config.train.max_train_steps
    if warmup is None or steps is None or warmup < steps:
        return []
    return [
        f"train.lr_warmup_steps is {warmup:g} in a training of {steps} steps: the learning rate never gets to what is "
        "given."
    ]
