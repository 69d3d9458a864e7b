"""Every kind of network through a whole run: it trains, its file says what it is, and it comes off without a trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import NetworkOptions, RunConfig
from lora_train.config.network import KINDS, with_arguments
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import read_lora
from lora_train.models.opening import open_model
from lora_train.networks.registry import kind_of
from lora_train.prompt.apply import Applier, modules_by_file_name
from lora_train.prompt.syntax import LoraTag
from lora_train.runs.execute import run_training

Make = Callable[..., RunConfig]
KEYS = {
    "lora": "lora_up.weight",
    "locon": "lora_up.weight",
    "dora": "dora_scale",
    "loha": "hada_w1_a",
    "lokr": "lokr_w1",
    "oft": "oft_blocks",
    "boft": "oft_blocks",
    "ia3": "weight",
    "glora": "a1.weight",
    "full": "diff",
    "norm": "w_norm",
}


def _options(algorithm: str, *arguments: str, **values: Any) -> dict[str, Any]:
    made = with_arguments(NetworkOptions(network_dim=4, **values), algorithm, arguments)
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_run_with_each(algorithm: str, make_config: Make, host: StandaloneHost, base: Path) -> None:
    config = make_config(
        network=_options(algorithm), train={"max_train_steps": 2, "learning_rate": 0.02, "lr_warmup_steps": 0}
    )
    path = run_training(config, host).path
    assert path is not None
    file = read_lora(path)
    kinds = {found.name for tensors in file.by_module().values() if (found := kind_of(tensors)) is not None}
    assert kinds == {{"locon": "lora", "dora": "lora"}.get(algorithm, algorithm)}
    assert any(key.endswith("." + KEYS[algorithm]) for key in file.tensors)
    if algorithm not in ("lora", "locon"):
        algo = json.loads(file.metadata["ss_network_args"])["algo"]
        assert file.metadata["ss_network_module"] == "lycoris.kohya"
        assert algo == {"oft": "diag-oft", "dora": "locon"}.get(algorithm, algorithm)

    modules = modules_by_file_name(open_model(base))
    before = {name: module.weight.detach().clone() for name, module in modules.items()}  # type: ignore[operator]
    applier = Applier(modules)
    (applied,) = applier.apply([(LoraTag("sara", 1.0, 1.0), path)])
    assert not applied.unknown
    changed = [name for name, weight in before.items() if not torch.equal(weight, modules[name].weight)]  # type: ignore[arg-type]
    assert len(changed) > 0.9 * len(file.by_module())
    applier.remove()
    assert all(torch.equal(weight, modules[name].weight) for name, weight in before.items())  # type: ignore[arg-type]


def test_every_kind_is_run() -> None:
    assert set(KINDS) <= set(KEYS)


def _trained(make_config: Make, host: StandaloneHost, name: str, **options: Any) -> dict[str, torch.Tensor]:
    train = {"max_train_steps": 2, "learning_rate": 0.01, "lr_warmup_steps": 0, **options.pop("train", {})}
    config = make_config(network=options, train=train, save={"output_name": name, "save_precision": "fp32"})
    path = run_training(config, host).path
    assert path is not None
    return read_lora(path).tensors


def test_dropouts_change_the_training_and_are_exact(make_config: Make, host: StandaloneHost) -> None:
    """Each has an effect of its own, and the same seed gives the same bits."""
    plain = _trained(make_config, host, "plain", network_dim=4)
    seen = [plain]
    for name in ("network_dropout", "rank_dropout", "module_dropout"):
        one, again = (_trained(make_config, host, f"{name}-{n}", network_dim=4, **{name: 0.5}) for n in (1, 2))
        assert all(torch.equal(one[key], again[key]) for key in one), name
        assert all(any(not torch.equal(one[key], other[key]) for key in one) for other in seen), name
        seen.append(one)


def test_rules_give_dimensions_and_leave_modules_out(make_config: Make, host: StandaloneHost) -> None:
    rules = ("attn2: off", "_attn1_to_q: dim=2 alpha=2")
    tensors = _trained(make_config, host, "ruled", network_dim=4, network_rules=rules)
    assert tensors and not any("attn2" in key for key in tensors)
    for key, value in tensors.items():
        if key.endswith("lora_down.weight"):
            assert value.shape[0] == (2 if "_attn1_to_q" in key else 4)


def test_lora_plus_moves_only_the_up_matrices_further(make_config: Make, host: StandaloneHost) -> None:
    """After one step of AdamW an up matrix, which starts at 0, has moved by its rate: 4 times as far."""
    one = {"train": {"max_train_steps": 1}}
    plain = _trained(make_config, host, "plain", network_dim=4, **one)
    more = _trained(make_config, host, "plus", network_dim=4, loraplus_lr_ratio=4.0, **one)
    ups = [key for key in plain if key.endswith("lora_up.weight") and plain[key].abs().max() > 0]
    assert ups and all(torch.allclose(more[key], 4 * plain[key], rtol=1e-3, atol=1e-6) for key in ups)
    downs = [key for key in plain if key.endswith("lora_down.weight")]
    assert all(torch.equal(more[key], plain[key]) for key in downs)


def test_the_norm_of_each_change_is_held(make_config: Make, host: StandaloneHost) -> None:
    held = _trained(make_config, host, "held", network_dim=4, scale_weight_norms=0.05, train={"learning_rate": 0.1})
    norms = [
        (held[key].flatten(1) @ held[key.replace("lora_up", "lora_down")].flatten(1)).norm()
        * held[key.replace("lora_up.weight", "alpha")]
        / 4
        for key in held
        if key.endswith("lora_up.weight")
    ]
    assert max(norms) <= 0.0501 and max(norms) > 0.04


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_from_the_base_is_a_file_for_the_plain_base(
    start: str, make_config: Make, host: StandaloneHost, base: Path
) -> None:
    """With a rate of almost nothing the file changes the unmodified base by almost nothing."""
    tensors = _trained(make_config, host, start, network_dim=4, init_lora_weights=start, train={"learning_rate": 1e-12})
    modules = modules_by_file_name(open_model(base))
    for key in tensors:
        if key.endswith("lora_up.weight"):
            name = key.removesuffix(".lora_up.weight")
            up, down = tensors[key].flatten(1), tensors[key.replace("lora_up", "lora_down")].flatten(1)
            delta = (up @ down) * tensors[f"{name}.alpha"] / down.shape[0]
            weight = modules[name].weight
            assert isinstance(weight, torch.Tensor)
            assert delta.norm() < 1e-4 * weight.float().norm()


def test_going_on_from_a_file(make_config: Make, host: StandaloneHost, tmp_path: Path) -> None:
    """It starts where the file ends, with the file's dimension, whatever the options say."""
    first = _trained(make_config, host, "first", network_dim=4)
    file = str(tmp_path / "loras" / "first.safetensors")
    tiny = {"learning_rate": 1e-12}
    again = _trained(make_config, host, "again", network_dim=8, network_weights=file, train=tiny)
    assert again.keys() == first.keys()
    assert all(torch.allclose(again[key], first[key], atol=1e-6) for key in first)


def test_other_loras_are_merged_first(make_config: Make, host: StandaloneHost, tmp_path: Path) -> None:
    _trained(make_config, host, "other", network_dim=4, train={"learning_rate": 0.1})
    file = str(tmp_path / "loras" / "other.safetensors")
    plain = _trained(make_config, host, "plain", network_dim=4)
    merged = _trained(make_config, host, "merged", network_dim=4, base_weights=(file,))
    half = _trained(make_config, host, "none", network_dim=4, base_weights=(file,), base_weights_multiplier=(0.0,))
    assert any(not torch.equal(plain[key], merged[key]) for key in plain)
    assert all(torch.equal(plain[key], half[key]) for key in plain)


def test_the_text_encoder_stops(make_config: Make, host: StandaloneHost) -> None:
    once = _trained(make_config, host, "once", network_dim=4, train={"max_train_steps": 1})
    stopped = _trained(make_config, host, "stopped", network_dim=4, train={"stop_text_encoder_training": 1})
    whole = _trained(make_config, host, "whole", network_dim=4)
    text = [key for key in once if key.startswith("lora_te") and "lora_up" in key]
    unet = [key for key in once if key.startswith("lora_unet") and "lora_up" in key]
    assert any(not torch.equal(whole[key], stopped[key]) for key in text)
    assert any(not torch.equal(once[key], stopped[key]) for key in unet)
