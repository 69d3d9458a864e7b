"""Resize, merge and compare, against their definitions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_train.errors import LoraTrainError, Stopped
from lora_train.lorafile.comparing import compare
from lora_train.lorafile.factors import Cut, Factors, cut_delta, cut_factors
from lora_train.lorafile.merging import merge
from lora_train.lorafile.reading import LoraFile
from lora_train.lorafile.resizing import resize
from tests.lorafile.samples import lora_tensors
from tests.lorafile.witness import apart, deltas


def _file(name: str = "a", metadata: dict[str, str] | None = None, **how: int) -> LoraFile:
    return LoraFile(Path(f"{name}.safetensors"), lora_tensors(**how), metadata or {})


def _with_values(values: list[float], out: int = 20, into: int = 30) -> Factors:
    """Factors whose product has just these singular values."""
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(out, len(values)))[0], torch.linalg.qr(torch.randn(into, len(values)))[0]
    mixed = torch.linalg.qr(torch.randn(len(values), len(values)))[0]
    return Factors(left @ torch.diag(torch.tensor(values)) @ mixed, mixed.T @ right.T, (into,))


VALUES = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25]

CUTS = (
    (Cut(3), 3),
    (Cut(keep="ratio", amount=3.0), 2),  # above 8 / 3
    (Cut(keep="ratio", amount=10.0), 4),  # above 0.8
    (Cut(keep="cumulative", amount=0.75), 2),  # 12 of 15.75
    (Cut(keep="cumulative", amount=0.77), 3),
    (Cut(keep="frobenius", amount=0.96), 2),  # sqrt(80 / 85.3) = 0.9684
    (Cut(keep="frobenius", amount=0.97), 3),
    (Cut(2, "frobenius", 0.999), 2),
    (Cut(keep="frobenius", amount=1.0), 6),
)


@pytest.mark.parametrize(("cut", "rank"), CUTS)
def test_known_singular_values_are_cut_where_asked(cut: Cut, rank: int) -> None:
    whole = _with_values(VALUES)
    norm = sum(v * v for v in VALUES) ** 0.5
    for made, kept in (cut_factors(whole, cut), cut_delta(whole.delta(), whole.shape, cut)):
        assert made.rank == rank
        assert kept == pytest.approx(sum(v * v for v in VALUES[:rank]) ** 0.5 / norm, abs=1e-6)
        values = torch.linalg.svdvals(made.delta())[:rank]
        assert torch.allclose(values, torch.tensor(VALUES[:rank]), rtol=1e-4)
        # the error is what was cut off (Eckart-Young)
        lost = float((made.delta() - whole.delta()).norm())
        assert lost == pytest.approx(sum(v * v for v in VALUES[rank:]) ** 0.5, abs=1e-4)


def test_a_rank_beyond_what_is_there_gives_what_is_there() -> None:
    whole = _with_values(VALUES)
    assert cut_factors(whole, Cut(60))[0].rank == len(VALUES)
    assert cut_delta(whole.delta(), whole.shape, Cut(60))[0].rank == 20


@pytest.mark.parametrize(
    "cut", [{"rank": 0}, {"keep": "much"}, {"keep": "frobenius", "amount": 1.2}, {"keep": "ratio", "amount": 0.5}]
)
def test_cuts_without_sense_are_refused(cut: dict[str, object]) -> None:
    with pytest.raises(LoraTrainError):
        Cut(**cut)  # type: ignore[arg-type]


def test_clamping_bounds_single_values() -> None:
    delta = torch.zeros(30, 30)
    delta[0, 0] = 100.0
    delta += 0.01 * torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    plain, clamped = (cut_delta(delta, (30,), Cut(4), clamp)[0].delta() for clamp in (1.0, 0.9))
    assert plain.max() > 99 and clamped.max() < 20


def test_resizing_to_the_same_rank_changes_nothing_and_less_is_best() -> None:
    file = _file(rank=6)
    same, cuts = resize(file, Cut(6))
    assert apart(deltas(same.tensors), deltas(file.tensors)) < 1e-5
    assert all(one.kept == pytest.approx(1) for one in cuts)
    less, cuts = resize(file, Cut(2), Cut(3), {"lora_te_*": Cut(1)})
    for one in cuts:
        expected = 1 if one.name.startswith("lora_te_") else 3 if "conv1" in one.name else 2
        assert one.after == expected == less.tensors[f"{one.name}.lora_down.weight"].shape[0]
        assert float(less.tensors[f"{one.name}.alpha"]) == pytest.approx(expected / 2)  # alpha / rank stays
        whole, cut = deltas(file.tensors)[one.name], deltas(less.tensors)[one.name]
        values = torch.linalg.svdvals(whole)
        assert float((whole - cut).norm()) == pytest.approx(float(values[expected:].norm()), rel=1e-4)
        assert one.kept == pytest.approx(float(values[:expected].norm() / values.norm()), abs=1e-5)
    assert less.metadata["ss_network_dim"] == "Dynamic"
    assert "rank 6 to 1-3" in less.metadata["ss_training_comment"]


def test_resizing_keeps_dtype_and_shape_of_keys() -> None:
    file = LoraFile(Path("a"), lora_tensors(rank=5, dtype=torch.bfloat16), {})
    made, _ = resize(file, Cut(keep="frobenius", amount=0.9))
    assert made.tensors.keys() == file.tensors.keys()
    for key, value in made.tensors.items():
        assert value.ndim == file.tensors[key].ndim
        assert value.dtype == (torch.float32 if key.endswith("alpha") else torch.bfloat16)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, -0.7), (0.0, 2.0)])
def test_merging_is_the_weighted_sum(weights: tuple[float, float]) -> None:
    one, two = _file("one", rank=4), _file("two", rank=2, seed=1)
    del two.tensors["lora_te_text_model_encoder_layers_11_mlp_fc1.lora_down.weight"]
    del two.tensors["lora_te_text_model_encoder_layers_11_mlp_fc1.lora_up.weight"]
    del two.tensors["lora_te_text_model_encoder_layers_11_mlp_fc1.alpha"]
    merged = merge([one, two], weights)
    of_one, of_two = deltas(one.tensors), deltas(two.tensors)
    for name, found in deltas(merged.tensors).items():
        expected = weights[0] * of_one[name] + weights[1] * of_two.get(name, torch.zeros_like(of_one[name]))
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert merged.tensors["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"].shape[0] == 6
    # the sum has a rank of 6 at most, so a cut to 6 loses nothing, and one to 3 is the best of that rank
    whole = deltas(merge([one, two], weights, Cut(6)).tensors)
    cut = deltas(merge([one, two], weights, Cut(3)).tensors)
    for name, expected in deltas(merged.tensors).items():
        assert torch.allclose(whole[name], expected, rtol=1e-4, atol=1e-4)
        lost = float(torch.linalg.svdvals(expected)[3:].norm())
        assert float((cut[name] - expected).norm()) == pytest.approx(lost, abs=1e-3)


@pytest.mark.parametrize(
    ("first", "second", "asked", "expected"),
    [
        (torch.float8_e4m3fn, torch.float16, None, torch.float16),
        (torch.float16, torch.float32, None, torch.float32),
        (torch.bfloat16, torch.float16, None, torch.bfloat16),
        (torch.float16, torch.float16, torch.float32, torch.float32),
    ],
)
def test_a_sum_has_the_widest_precision_of_its_parts(
    first: torch.dtype, second: torch.dtype, asked: torch.dtype | None, expected: torch.dtype
) -> None:
    files = [_file("one", rank=4), _file("two", rank=2, seed=1)]
    for file, dtype in zip(files, (first, second)):
        file.tensors.update({k: v.to(dtype) for k, v in file.tensors.items() if "alpha" not in k})
    merged = merge(files, (0.7, 0.5), dtype=asked)
    assert {v.dtype for k, v in merged.tensors.items() if "alpha" not in k} == {expected}
    exact = deltas(merge(files, (0.7, 0.5), dtype=torch.float32).tensors)
    for name, found in deltas(merged.tensors).items():
        assert torch.allclose(found, exact[name], rtol=0.02, atol=0.02 * float(exact[name].abs().max()))


def test_the_same_twice_is_double_and_says_so() -> None:
    file = _file("one", {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "x", "ss_seed": "1"})
    merged = merge([file, file], (1.0, 1.0))
    assert apart(deltas(merged.tensors), {n: 2 * d for n, d in deltas(file.tensors).items()}) < 1e-5
    assert merged.metadata["ss_base_model_version"] == "sd_v1" and "ss_seed" not in merged.metadata
    assert merged.metadata["ss_training_comment"] == "merged from one x 1, one x 1"
    assert merged.metadata["ss_network_dim"] == "8"


def test_what_cannot_be_merged_is_named() -> None:
    other = _file("two")
    other.tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"] = torch.ones(9, 4)
    with pytest.raises(LoraTrainError, match="lora_unet_mid_block_attentions_0_proj_in has different shapes"):
        merge([_file(), other], (1.0, 1.0))
    with pytest.raises(LoraTrainError, match="one.safetensors for SD 1.x, two.safetensors for SDXL"):
        merge(
            [
                _file("one", {"ss_base_model_version": "sd_v1"}),
                _file("two", {"ss_base_model_version": "sdxl_base_v1-0"}),
            ],
            (1.0, 1.0),
        )
    with pytest.raises(LoraTrainError, match="1 files and 2 weights"):
        merge([_file()], (1.0, 1.0))
    loha = {
        f"lora_unet_conv_in.{part}": torch.ones(2, 2) for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    }
    for tool in (lambda f: merge([f], [1.0]), lambda f: resize(f, Cut(1)), lambda f: compare(f, f)):
        with pytest.raises(LoraTrainError, match="lora_unet_conv_in"):
            tool(LoraFile(Path("x"), loha, {}))


def test_comparing_tells_norms_and_angles() -> None:
    one, two = _file("one", rank=4), _file("two", rank=3, seed=5)
    del two.tensors["lora_te_text_model_encoder_layers_11_mlp_fc1.lora_down.weight"]
    del two.tensors["lora_te_text_model_encoder_layers_11_mlp_fc1.lora_up.weight"]
    del two.tensors["lora_te_text_model_encoder_layers_11_mlp_fc1.alpha"]
    found = compare(one, two)
    assert found.only_in_a == ("lora_te_text_model_encoder_layers_11_mlp_fc1",) and found.only_in_b == ()
    a, b = deltas(one.tensors), deltas(two.tensors)
    for it in found.modules:
        x, y = a[it.name].flatten(), b[it.name].flatten()
        assert it.norm_a == pytest.approx(float(x.norm()), rel=1e-5)
        assert it.norm_b == pytest.approx(float(y.norm()), rel=1e-5)
        assert it.difference == pytest.approx(float((x - y).norm()), rel=1e-5)
        assert it.cosine == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)), abs=1e-5)
    flat = [torch.cat([d[it.name].flatten() for it in found.modules]) for d in (a, b)]
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(*flat, dim=0)), abs=1e-5)
    same = compare(one, one)
    assert same.cosine == pytest.approx(1) and all(it.difference < 1e-5 * it.norm_a for it in same.modules)


def test_tools_tell_how_far_they_are_and_can_be_stopped() -> None:
    seen: list[tuple[int, int]] = []

    def listen(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise Stopped

    for tool in (
        lambda: resize(_file(), Cut(1), progress=listen),
        lambda: merge([_file()], [1.0], progress=listen),
        lambda: compare(_file(), _file(), listen),
    ):
        seen.clear()
        with pytest.raises(Stopped):
            tool()
        assert seen == [(0, 6), (1, 6), (2, 6), (3, 6)]


@pytest.mark.parametrize("weights", [(0.5, 2.0), (-1.0, 0.25)])
def test_merged_biases_are_weighted_as_the_rest(weights: tuple[float, float]) -> None:
    """Also where only one of the files has a bias for a module."""
    files = [_file("a", seed=1), _file("b", seed=2)]
    first, second = list(files[0].by_module())[:2]
    given = [{first: torch.randn(7), second: torch.randn(5)}, {first: torch.randn(7)}]
    for file, biases in zip(files, given):
        file.tensors.update({f"{name}.diff_b": bias for name, bias in biases.items()})
    found = merge(files, weights, dtype=torch.float32).tensors
    both = weights[0] * given[0][first] + weights[1] * given[1][first]
    assert torch.allclose(found[f"{first}.diff_b"], both, atol=1e-6)
    assert torch.allclose(found[f"{second}.diff_b"], weights[0] * given[0][second], atol=1e-6)
    assert sum(name.endswith(".diff_b") for name in found) == 2
