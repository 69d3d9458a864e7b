"""Every option of the network does what it says, in short runs from the configuration to the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import NetworkOptions, RunConfig
from lora_train.config.choices import KINDS
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.writing import write_lora
from lora_train.models.names import UnetNames
from lora_train.models.opening import open_model
from lora_train.networks.inject import targets
from lora_train.networks.registry import load_network
from lora_train.prompt.syntax import LoraTag
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from lora_train.train.network import build_network
from tests.models.tiny import tiny_sdxl, write_folder

Make = Callable[..., RunConfig]
SMALL = {"resolution": 64, "min_bucket_reso": 64, "max_bucket_reso": 64}
# constant from the first step, so that single steps compare
PLAIN = {"lr_scheduler": "constant", "lr_warmup_steps": 0, "max_train_steps": 2, "text_encoder_lr": 1e-4}


@pytest.fixture
def trained(make_config: Make, tmp_path: Path) -> Callable[..., LoraFile]:
    """Trains at 64 pixels with options of the network (and `train={...}`), and reads the file."""
    count = iter(range(100))

    def train(train: dict[str, Any] | None = None, **network: Any) -> LoraFile:
        number = next(count)
        config = make_config(
            data=SMALL,
            network={"network_dim": 2, "network_alpha": 2.0} | network,
            train=PLAIN | (train or {}),
            save={"output_name": f"run{number}", "save_precision": "fp32"},
        )
        path = run_training(config, StandaloneHost(tmp_path / "data")).path
        assert path is not None
        return read_lora(path)

    return train


def _differences(one: LoraFile, other: LoraFile) -> set[str]:
    assert one.tensors.keys() == other.tensors.keys()
    return {name for name, value in one.tensors.items() if not torch.equal(value, other.tensors[name])}


def _ups(file: LoraFile, start: str = "lora_") -> torch.Tensor:
    found = [v.flatten() for k, v in file.tensors.items() if k.startswith(start) and k.endswith("lora_up.weight")]
    return torch.cat(found)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_applies(trained: Callable[..., LoraFile], base: Path, kind: str) -> None:
    more = {"network_dim": 16} if kind == "boft" else {"network_dim": 4}
    file = trained(kind=kind, **more, **({"network_train_unet_only": True} if kind == "norm" else {}))
    told = file.metadata
    assert (told["ss_network_module"] == "networks.lora") == (kind == "lora")
    if kind != "lora":
        assert json.loads(told["ss_network_args"])["algo"] == {"oft": "diag-oft"}.get(kind, kind)
    model: Any = open_model(base)
    before = {f"{p}.{n}": v.clone() for p, root in model.roots().items() for n, v in root.state_dict().items()}
    applier = Applier(modules_by_file_name(model))
    applied = applier.apply([(LoraTag("x", 1.0, 1.0), file.path)])
    assert applied[0].unmatched == () and applied[0].notes == ()
    after = {f"{p}.{n}": v for p, root in model.roots().items() for n, v in root.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) >= len(file.by_module())
    applier.remove()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_dora_around_loha_with_norms(trained: Callable[..., LoraFile]) -> None:
    file = trained(kind="loha", dora_wd=True, train_norm=True, conv_dim=2, use_tucker=True)
    parts = {frozenset(tensors) for tensors in file.by_module().values()}
    flat = {"alpha", "dora_scale", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
    assert parts == {frozenset(flat), frozenset(flat | {"hada_t1", "hada_t2"}), frozenset({"w_norm", "b_norm"})}
    told = json.loads(file.metadata["ss_network_args"])
    assert told["dora_wd"] == "True" and told["wd_on_output"] == "False" and told["train_norm"] == "True"
    one = next(v for k, v in file.tensors.items() if k.endswith("attn1_to_q.dora_scale"))
    assert one.shape[0] == 1  # over columns, as the WebUI reads it


@pytest.mark.parametrize("option", ["network_dropout", "rank_dropout", "module_dropout"])
def test_dropout_is_drawn_from_the_seed(trained: Callable[..., LoraFile], option: str) -> None:
    one, again, less = trained(**{option: 0.5}), trained(**{option: 0.5}), trained(**{option: 0.01})
    assert _differences(one, again) == set()
    assert len(_differences(one, less)) > 50
    key = "ss_network_dropout" if option == "network_dropout" else "ss_network_args"
    assert "0.5" in one.metadata[key]


def test_a_module_that_is_always_dropped_learns_nothing(trained: Callable[..., LoraFile]) -> None:
    """At 0.99 nearly all are dropped in both steps; their up matrices stay 0."""
    file = trained(module_dropout=0.99)
    zero = [not v.any() for k, v in file.tensors.items() if k.endswith("lora_up.weight")]
    assert sum(zero) > 0.9 * len(zero)


def test_resume_with_dropout_gives_the_same_bits(make_config: Make, tmp_path: Path) -> None:
    """Stopped after step 2 of 4, inside an epoch; the text encoder stops after step 3."""
    options: dict[str, dict[str, Any]] = {
        "data": SMALL | {"repeats": 2},
        "network": {
            "network_dim": 2, "kind": "lora", "rank_dropout": 0.3, "module_dropout": 0.2, "network_dropout": 0.1,
            "network_rules": ("attn1: kind=loha",), "scale_weight_norms": 0.01,
        },
        "train": PLAIN | {"max_train_steps": 4, "stop_text_encoder_training": 3},
    }  # fmt: skip
    options["network"].pop("network_dropout")  # not on loha
    whole = run_training(
        make_config(**options, save={"output_name": "a", "save_precision": "fp32"}), StandaloneHost(tmp_path / "one")
    )
    seen: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        seen.extend([1] * (event["kind"] == "step"))

    config = make_config(**options, save={"output_name": "b", "save_precision": "fp32"})
    host = StandaloneHost(tmp_path / "other")
    first = run_training(config, host, listen, lambda: len(seen) >= 2)
    assert first.stopped
    second = resume_training(RunFolder(first.folder), host)
    assert whole.path is not None and second.path is not None
    assert _differences(read_lora(whole.path), read_lora(second.path)) == set()


def test_rs_lora_is_a_larger_scale_and_is_written_so_that_all_read_it(trained: Callable[..., LoraFile]) -> None:
    plain, stable = trained(network_dim=4, network_alpha=4.0), trained(network_dim=4, network_alpha=4.0, rs_lora=True)
    alphas = {float(v) for k, v in stable.tensors.items() if k.endswith(".alpha")}
    assert alphas == {8.0}  # 8 / 4 = 4 / sqrt(4)
    assert stable.metadata["ss_network_alpha"] == "4.0"
    assert json.loads(stable.metadata["ss_network_args"])["rs_lora"] == "True"
    assert _differences(plain, stable)


def test_loraplus_gives_the_up_matrices_a_higher_rate(trained: Callable[..., LoraFile]) -> None:
    """AdamW's first step has the size of the rate."""
    one_step = {"max_train_steps": 1, "weight_decay": 0.0}
    plain, plus = trained(train=one_step), trained(train=one_step, loraplus_lr_ratio=16.0)
    assert all(name.endswith("lora_up.weight") for name in _differences(plain, plus))
    assert _ups(plus).abs().median() == pytest.approx(16 * float(_ups(plain).abs().median()), rel=0.01)
    only = trained(train=one_step, loraplus_unet_lr_ratio=16.0)
    assert _ups(only, "lora_unet").abs().median() > 10 * _ups(only, "lora_te").abs().median()


def test_a_text_encoder_that_stops_stays_as_it_was(trained: Callable[..., LoraFile]) -> None:
    """The first step of three is the run of one step; the UNet goes on."""
    one = trained(train={"max_train_steps": 1})
    stopped = trained(train={"max_train_steps": 3, "stop_text_encoder_training": 1})
    on = trained(train={"max_train_steps": 3})
    same = {name for name in one.tensors if name not in _differences(one, stopped)}
    assert {name for name in one.tensors if name.startswith("lora_te")} <= same
    assert any(name.startswith("lora_te") for name in _differences(one, on))
    assert any(name.startswith("lora_unet") for name in _differences(one, stopped))


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "full"])
def test_norms_are_held(trained: Callable[..., LoraFile], base: Path, kind: str) -> None:
    train = {"max_train_steps": 2, "learning_rate": 1e-2}
    free, held = trained(kind=kind, train=train), trained(kind=kind, train=train, scale_weight_norms=0.005)
    norms = {}
    bases: Any = targets(open_model(base))
    for label, file in (("free", free), ("held", held)):
        networks = {n: load_network(bases[n], tensors) for n, tensors in file.by_module().items()}
        norms[label] = [float(net.weight_delta(bases[n].weight).detach().norm()) for n, net in networks.items()]
    assert max(norms["free"]) > 0.01
    assert max(norms["held"]) == pytest.approx(0.005, rel=1e-3)
    assert held.metadata["ss_scale_weight_norms"] == "0.005"


def test_rates_and_ranks_by_block_and_rule(trained: Callable[..., LoraFile]) -> None:
    """AdamW's first step has the size of the rate, so rates can be read off the up matrices."""
    rules = ("te_.*fc1: off", "attn2_to_v: kind=lokr dim=1", "attn2_to_k: lr=3e-5")
    file = trained(
        train={"max_train_steps": 1, "weight_decay": 0.0, "unet_lr": 1e-4},
        block_dims=(1,) * 12 + (3,) * 13,
        down_lr_weight="0.5," * 11 + "0.5",
        mid_lr_weight="0",
        network_rules=rules,
    )
    names = set(file.by_module())
    assert not any("fc1" in name and name.startswith("lora_te") for name in names)
    assert all("attn2_to_k" in name for name in names if "mid_block" in name)  # a rule's rate is over the block's
    for name, tensors in file.by_module().items():
        if "attn2_to_v" in name:
            assert "lokr_w1" in tensors
            continue
        size = float(tensors["lora_up.weight"].abs().max())
        expected = 3e-5 if "attn2_to_k" in name else 5e-5 if "_down_" in name else 1e-4
        assert size == pytest.approx(expected, rel=0.02), name
        rank = 2 if name.startswith("lora_te") else 1 if "_down_" in name else 3
        assert tensors["lora_down.weight"].shape[0] == rank


def test_going_on_from_a_file(trained: Callable[..., LoraFile], tmp_path: Path, base: Path) -> None:
    first = trained(network_rules=("attn1: kind=loha", "attn2: dim=3"), network_dim=2)
    again = trained(network_weights=str(first.path), network_dim=8, train={"learning_rate": 1e-12, "unet_lr": 1e-12})
    assert again.tensors.keys() == first.tensors.keys()
    values = zip(first.tensors.items(), again.tensors.values())
    assert all(torch.allclose(v, w, atol=1e-5) for (k, v), w in values if k.startswith("lora_unet"))
    assert again.metadata["ss_network_dim"] == first.metadata["ss_network_dim"] == "2"
    assert again.metadata["ss_network_weights"] == first.path.name
    further = trained(network_weights=str(first.path))
    assert len(_differences(first, further)) > 50
    write_lora(tmp_path / "odd.safetensors", {"lora_unet_odd.diff": torch.ones(2)}, {}, "fp32", overwrite=False)
    with pytest.raises(LoraTrainError, match="has no such module that can be trained"):
        trained(network_weights=str(tmp_path / "odd.safetensors"))


@pytest.mark.parametrize(
    ("kept", "options"),
    [
        ("lora_te", {"train": {"text_encoder_lr": 0.0}}),
        ("lora_te", {"network_train_unet_only": True}),
        ("lora_unet", {"network_train_text_encoder_only": True}),
    ],
)
def test_going_on_carries_the_part_that_is_not_trained(
    trained: Callable[..., LoraFile], tmp_path: Path, kept: str, options: dict[str, Any]
) -> None:
    """Bit for bit, of whatever kind it is; and it counts while the other part is trained."""
    made = trained(network_rules=("_te_.*fc1: kind=lokr", "attn1: kind=loha"), train={"learning_rate": 1e-2}).tensors
    whole = {k: v.half() if k.startswith(kept) else v for k, v in made.items()}
    part = {k: v for k, v in whole.items() if not k.startswith(kept)}
    for name, tensors in (("whole", whole), ("part", part)):
        write_lora(tmp_path / f"{name}.safetensors", tensors, {}, "keep", overwrite=False)
    again = trained(network_weights=str(tmp_path / "whole.safetensors"), **options)
    assert again.tensors.keys() == whole.keys()
    for key, value in whole.items():
        same = again.tensors[key].dtype == value.dtype and torch.equal(again.tensors[key], value)
        assert same or not key.startswith(kept), key
    alone = trained(network_weights=str(tmp_path / "part.safetensors"), **options)
    assert alone.tensors.keys() == part.keys()
    assert any(not torch.equal(value, again.tensors[key]) for key, value in alone.tensors.items())
    notes = [
        {event.get("text", "") for event in RunFolder(folder).events() if event["kind"] == "note"}
        for folder in sorted((tmp_path / "data" / "runs").iterdir())[-2:]
    ]
    assert any("is not trained: it is applied while training" in text for text in notes[0])
    assert not any("not trained" in text for text in notes[1])


def test_going_on_carries_modules_that_are_never_trained(
    trained: Callable[..., LoraFile], base: Path, tmp_path: Path
) -> None:
    """They count, come out bit for bit and are named, as do those that this base lacks; the rest is trained."""
    made = trained(train={"max_train_steps": 1}).tensors
    model: Any = open_model(base)
    known = {"lora_unet_conv_in.diff": torch.full(tuple(model.unet.conv_in.weight.shape), 0.5)}
    lacking = "lora_te_text_model_encoder_layers_23_mlp_fc1"
    absent = {f"{lacking}.lora_down.weight": torch.ones(2, 8), f"{lacking}.lora_up.weight": torch.ones(8, 2)}
    results = []
    for name, more in (("plain", {}), ("more", known | absent)):
        write_lora(tmp_path / f"{name}.safetensors", made | more, {}, "keep", overwrite=False)
        results.append(trained(network_weights=str(tmp_path / f"{name}.safetensors"), train={"max_train_steps": 1}))
    plain, more = (result.tensors for result in results)
    assert more.keys() - plain.keys() == known.keys() | absent.keys()
    assert all(torch.equal(more[key], value) for key, value in (known | absent).items())
    assert any(not torch.equal(more[key], value) for key, value in plain.items())
    newest = sorted((tmp_path / "data" / "runs").iterdir())[-1]
    notes = " ".join(event.get("text", "") for event in RunFolder(newest).events() if event["kind"] == "note")
    assert "(1): lora_unet_conv_in. This is applied while training, but never trained." in notes
    assert f"(1): {lacking}. This is not in this base model." in notes


def test_going_on_from_an_sdxl_file_with_diffusers_names_trains_it(tmp_path: Path) -> None:
    """The names are those of our own modules, written otherwise: nothing of it is carried or refused."""
    model: Any = open_model(write_folder(tiny_sdxl(), tmp_path / "base"))
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    width = model.unet.get_submodule(path).weight.shape[0]
    name = f"lora_unet_{path.replace('.', '_')}"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, width), f"{name}.lora_up.weight": torch.ones(width, 2)}
    write_lora(tmp_path / "a.safetensors", tensors, {}, "keep", overwrite=False)
    config = RunConfig(network=NetworkOptions(network_weights=str(tmp_path / "a.safetensors")))
    built = build_network(config, model, ("lora_unet",), torch.Generator())
    assert list(built.network.named()) == [UnetNames(model.unet, sgm=True).of(path)]
    assert built.carried == {}


def test_going_on_says_which_part_a_file_lacks(
    trained: Callable[..., LoraFile], make_config: Make, host: StandaloneHost
) -> None:
    first = trained(network_train_unet_only=True, train={"max_train_steps": 1})
    config = make_config(data=SMALL, train={"max_train_steps": 1}, network={"network_weights": str(first.path)})
    events: list[dict[str, Any]] = []
    run_training(config, host, events.append)
    assert any("has nothing for the text encoder, which is not trained" in e.get("text", "") for e in events)


def test_what_a_continued_network_tells_of_itself(trained: Callable[..., LoraFile], tmp_path: Path) -> None:
    """Its form is the file's; dropouts and rates are those of this run, not of the one before."""
    first = trained(
        network_dim=3, network_alpha=1.5, conv_dim=2, conv_alpha=1, network_dropout=0.2, loraplus_lr_ratio=4.0
    )
    again = trained(network_weights=str(first.path), network_dim=8, rank_dropout=0.25)
    assert json.loads(again.metadata["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "1", "rank_dropout": "0.25"}
    assert again.metadata["ss_network_dropout"] == "None"
    assert (again.metadata["ss_network_dim"], again.metadata["ss_network_alpha"]) == ("3", "1.5")
    write_lora(tmp_path / "bare.safetensors", trained(network_dim=3, network_alpha=1.5).tensors, {}, "fp32", False)
    bare = trained(network_weights=str(tmp_path / "bare.safetensors"), network_dim=8, network_alpha=8.0)
    assert (bare.metadata["ss_network_dim"], bare.metadata["ss_network_alpha"]) == ("3", "1.5")


def test_going_on_from_a_kind_that_an_option_does_not_work_on(trained: Callable[..., LoraFile]) -> None:
    first = trained(network_rules=("attn1: kind=oft",), train={"max_train_steps": 1})
    with pytest.raises(LoraTrainError) as caught:
        trained(network_weights=str(first.path), scale_weight_norms=1.0, network_dropout=0.1)
    assert [p.where for p in caught.value.problems] == ["network.scale_weight_norms", "network.network_dropout"]
    assert all("does not work on oft" in p.what for p in caught.value.problems)


def test_a_merged_base_is_another_base(trained: Callable[..., LoraFile]) -> None:
    """Merging a LoRA and its negative gives the run on the base as it is, within rounding."""
    other = trained(train={"max_train_steps": 2, "learning_rate": 0.05, "unet_lr": 0.05})
    plain = trained()
    merged = trained(base_weights=(str(other.path),), base_weights_multiplier=(0.5,))
    assert len(_differences(plain, merged)) > 50
    assert json.loads(merged.metadata["ss_base_weights"]) == [[other.path.name, 0.5]]
    neither = trained(base_weights=(str(other.path), str(other.path)), base_weights_multiplier=(1.0, -1.0))
    assert (_ups(neither) - _ups(plain)).norm() < 0.05 * (_ups(merged) - _ups(plain)).norm()


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_from_the_base_are_trained_and_told(trained: Callable[..., LoraFile], start: str) -> None:
    file = trained(init_lora_weights=start)
    assert {v.shape[0] for k, v in file.tensors.items() if k.endswith("lora_down.weight")} == {4}
    assert file.metadata["ss_network_dim"] == "4" and file.metadata["ss_network_alpha"] == "4.0"
    assert json.loads(file.metadata["ss_network_args"]) == {"init_lora_weights": start}
    assert _ups(file).abs().max() > 0


def test_files_that_are_not_there_are_told_before_the_start(make_config: Make, host: StandaloneHost) -> None:
    config = make_config(network={"network_weights": "gone.safetensors", "base_weights": ("lost.safetensors",)})
    with pytest.raises(LoraTrainError) as caught:
        run_training(config, host)
    assert [p.where for p in caught.value.problems] == ["network.base_weights", "network.network_weights"]
    for name in ("gone", "lost"):
        (host.data_dir() / f"{name}.safetensors").parent.mkdir(parents=True, exist_ok=True)
        (host.data_dir() / f"{name}.safetensors").write_bytes(b"")
    damaged = [str(host.data_dir() / f"{name}.safetensors") for name in ("lost", "gone")]
    with pytest.raises(LoraTrainError) as caught:
        run_training(make_config(network={"network_weights": damaged[1], "base_weights": (damaged[0],)}), host)
    assert sorted(p.where for p in caught.value.problems) == sorted(damaged)
    assert not (host.data_dir() / "runs").exists()


@pytest.mark.parametrize(
    "network", [{"network_rules": (".: off",)}, {"kind": "norm", "network_train_text_encoder_only": True}]
)
def test_a_network_on_nothing_is_refused(make_config: Make, base: Path, network: dict[str, Any]) -> None:
    """The second one: a text encoder's norms are never trained."""
    config = make_config(network=network)
    prefixes = ("lora_te",) if config.network.network_train_text_encoder_only else ("lora_unet", "lora_te")
    with pytest.raises(LoraTrainError, match="nothing would be trained: no module of this base model") as found:
        build_network(config, open_model(base), prefixes, torch.Generator())
    assert found.value.problems[0].where == "network.kind"


def test_dimensions_that_do_not_fit_are_told(make_config: Make, host: StandaloneHost) -> None:
    with pytest.raises(LoraTrainError, match="cannot be split for BOFT with dimension 1"):
        run_training(make_config(network={"kind": "boft", "network_dim": 1}), host)
