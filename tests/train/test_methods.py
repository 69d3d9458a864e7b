"""Every loss, weighting, noise, sampling and schedule against its formula, written here once more."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig, TrainOptions
from lora_train.config.training_methods import LOSSES, SAMPLINGS, SCHEDULES
from lora_train.models.ddpm import NoiseProcess
from lora_train.train.noises import draw_noise, input_noise
from lora_train.train.schedule import lr_factor
from lora_train.train.weightings import weight_at

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
T = torch.tensor([0, 250, 700, 999])


def made(**train: Any) -> RunConfig:
    return RunConfig(train=TrainOptions(**train))


@dataclass
class Noisy:
    """What methods ask of a model: Stable Diffusion's noise process."""

    prediction_type: str = "epsilon"

    training_times = 1000
    device = torch.device("cpu")

    def __post_init__(self) -> None:
        self.process = NoiseProcess.of_config({**CONFIG, "prediction_type": self.prediction_type})
        self.snr = self.process.snr

    def as_times(self, places: torch.Tensor) -> torch.Tensor:
        return places.long()

    def draw_timesteps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(0, 1000, (count,), generator=generator)


def alphas() -> list[float]:
    """a(t) by hand."""
    product, found = 1.0, []
    for step in range(1000):
        product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * step / 999) ** 2
        found.append(product)
    return found


ALPHA = [alphas()[int(t)] for t in T]
SNR = [a / (1 - a) for a in ALPHA]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(predicted: torch.Tensor, target: torch.Tensor, **train: Any) -> torch.Tensor:
    config = made(**train)
    found = LOSSES.of(config)(predicted, target, T, Noisy(), config)
    assert isinstance(found, torch.Tensor) and found.shape == predicted.shape
    return found


PREDICTED, TARGET = (torch.randn(4, 4, 2, 2, generator=seeded(seed)) for seed in (1, 2))


def test_plain_losses() -> None:
    difference = PREDICTED - TARGET
    assert torch.equal(loss(PREDICTED, TARGET), difference**2)
    assert torch.equal(loss(PREDICTED, TARGET, loss_type="l1"), difference.abs())


THRESHOLDS: dict[str, Callable[[float, float], float]] = {
    "constant": lambda t, snr: 0.3 * 2.0,
    "exponential": lambda t, snr: 2.0 * 0.3 ** (t / 1000),
    "snr": lambda t, snr: 0.3 + 0.7 / (1 + 1 / math.sqrt(snr)) ** 2,
}


@pytest.mark.parametrize("schedule", THRESHOLDS)
def test_huber_losses(schedule: str) -> None:
    """Khrapov et al. 2024, arXiv 2403.16728, and sd-scripts' `conditional_loss`."""
    options = {"huber_c": 0.3, "huber_scale": 2.0, "huber_schedule": schedule}
    found = {name: loss(PREDICTED, TARGET, loss_type=name, **options) for name in ("huber", "smooth_l1")}
    for number, (t, snr) in enumerate(zip(T.tolist(), SNR)):
        c = THRESHOLDS[schedule](t, snr)
        for place in ((0, 0, 0), (3, 1, 0)):
            difference = float(PREDICTED[number][place] - TARGET[number][place])
            root = math.hypot(difference, c) - c
            assert float(found["huber"][number][place]) == pytest.approx(2 * c * root, rel=1e-3, abs=1e-6)
            assert float(found["smooth_l1"][number][place]) == pytest.approx(2 * root, rel=1e-3, abs=1e-6)


def test_huber_is_l2_near_0_and_smooth_l1_is_l1_far_from_it() -> None:
    near, far, zero = torch.full((4, 1, 1, 1), 1e-2), torch.full((4, 1, 1, 1), 1e3), torch.zeros(4, 1, 1, 1)
    options = {"huber_c": 1.0, "huber_schedule": "constant"}
    assert torch.allclose(loss(near, zero, loss_type="huber", **options), near**2, rtol=1e-2)
    assert torch.allclose(loss(far, zero, loss_type="smooth_l1", **options), 2 * far, rtol=1e-2)


def weights(prediction: str = "epsilon", **train: Any) -> list[float]:
    return [float(w) for w in weight_at(T, Noisy(prediction), made(**train))]  # type: ignore[arg-type]


def test_without_a_weighting_all_times_count_alike() -> None:
    assert weights() == [1.0] * 4


def test_min_snr() -> None:
    """Hang et al. 2023, arXiv 2303.09556, equations 8 and 10."""
    assert weights(min_snr_gamma=5.0) == pytest.approx([min(s, 5) / s for s in SNR], rel=1e-4)
    assert weights("v_prediction", min_snr_gamma=5.0) == pytest.approx([min(s, 5) / (s + 1) for s in SNR], rel=1e-4)


def test_debiased_estimation() -> None:
    """Yu et al. 2023, arXiv 2310.08442; sd-scripts' `apply_debiased_estimation`."""
    bounded = [min(s, 1000) for s in SNR]
    assert weights(debiased_estimation_loss=True) == pytest.approx([s**-0.5 for s in bounded], rel=1e-4)
    v = weights("v_prediction", debiased_estimation_loss=True)
    assert v == pytest.approx([1 / (s + 1) for s in bounded], rel=1e-4)


def test_p2() -> None:
    """Choi et al. 2022, arXiv 2204.00227, equation 8 with k = 1; the loss of v is (SNR + 1) / SNR times the noise's."""
    expected = [1 / (1 + s) ** 0.5 for s in SNR]
    assert weights(p2_gamma=0.5) == pytest.approx(expected, rel=1e-4)
    v = weights("v_prediction", p2_gamma=0.5)
    assert v == pytest.approx([w * s / (s + 1) for w, s in zip(expected, SNR)], rel=1e-4)


def test_losses_of_one_prediction_weighted_like_those_of_the_other() -> None:
    """sd-scripts' `scale_v_prediction_loss_like_noise_prediction` and `add_v_prediction_like_loss`."""
    scale = [min(s, 1000) / (min(s, 1000) + 1) for s in SNR]
    assert weights("v_prediction", scale_v_pred_loss_like_noise_pred=True) == pytest.approx(scale, rel=1e-4)
    assert weights(v_pred_like_loss=0.3) == pytest.approx([1 + 0.3 / s for s in scale], rel=1e-4)


def test_a_v_loss_scaled_is_the_noise_loss() -> None:
    """The two errors of one prediction of the picture differ by just that factor."""
    model, noisy = Noisy("v_prediction"), Noisy()
    x, e, guess = (torch.randn(4, 4, 2, 2, generator=seeded(seed)) for seed in (3, 4, 5))
    t = torch.tensor([200, 400, 600, 800])
    v = model.process.target(x, e, t) - model.process.target(guess, _noise_of(noisy, x, e, guess, t), t)
    eps = e - _noise_of(noisy, x, e, guess, t)
    scale = weight_at(t, model, made(scale_v_pred_loss_like_noise_pred=True))  # type: ignore[arg-type]
    assert torch.allclose(scale.reshape(-1, 1, 1, 1) * v**2, eps**2, rtol=1e-2, atol=1e-4)


def _noise_of(noisy: Noisy, x: torch.Tensor, e: torch.Tensor, guess: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The noise in x_t if the picture were `guess`."""
    a = noisy.process.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    return (noisy.process.noised(x, e, t) - a.sqrt() * guess) / (1 - a).sqrt()


def test_weightings_multiply() -> None:
    both = weights(min_snr_gamma=5.0, debiased_estimation_loss=True)
    one, other = weights(min_snr_gamma=5.0), weights(debiased_estimation_loss=True)
    assert both == pytest.approx([a * b for a, b in zip(one, other)])


def noise(seed: int = 0, shape: tuple[int, ...] = (64, 4, 16, 16), **train: Any) -> torch.Tensor:
    x = torch.arange(4.0).reshape(1, 4, 1, 1).expand(shape)  # the mean of each channel is its number
    return draw_noise(x, made(**train), seeded(seed))


def test_noise_is_gaussian_and_follows_its_generator() -> None:
    plain = noise()
    assert torch.equal(plain, torch.randn(64, 4, 16, 16, generator=seeded()))
    assert input_noise(plain, plain, made(), seeded()) is plain


def test_noise_offset_shifts_whole_channels() -> None:
    shift = noise(noise_offset=0.5) - noise()
    assert torch.allclose(shift, shift[:, :, :1, :1].expand(shift.shape), atol=1e-6)
    assert 0.4 < shift[:, :, 0, 0].std() < 0.6


def test_the_noise_offset_may_have_a_random_strength() -> None:
    """One for a batch, from 0 to the one given: sd-scripts' `noise_offset_random_strength`."""

    def strength(seed: int, **train: Any) -> float:
        return float((noise(seed, noise_offset=0.5, **train) - noise(seed))[:, :, 0, 0].std())

    found = [strength(seed, noise_offset_random_strength=True) for seed in range(20)]
    assert 0 < min(found) < 0.15 and 0.35 < max(found) < 0.55 and min(strength(seed) for seed in range(20)) > 0.4


def test_the_noise_offset_may_grow_with_the_latents() -> None:
    """noise_offset + adaptive_noise_scale * |mean of the channel|, at least 0: sd-scripts' `apply_noise_offset`."""
    generator = seeded()
    torch.randn(64, 4, 16, 16, generator=generator)
    constant = torch.randn(64, 4, 1, 1, generator=generator)
    for scale, expected in ((0.5, [0.2, 0.7, 1.2, 1.7]), (-0.15, [0.2, 0.05, 0.0, 0.0])):
        shift = noise(noise_offset=0.2, adaptive_noise_scale=scale) - noise()
        strength = torch.tensor(expected).reshape(1, 4, 1, 1)
        assert torch.allclose(shift, (strength * constant).expand(shift.shape), atol=1e-5)


def test_multires_noise() -> None:
    """J. Whitaker 2023; sd-scripts' `pyramid_noise_like`: layers of 1/r^i of the size, discount^i as strong."""
    generator = seeded()
    expected = torch.randn(8, 4, 16, 24, generator=generator)
    for i in range(6):
        r = (2 + 2 * float(torch.rand(1, generator=generator))) ** i
        small = torch.randn(8, 4, max(1, int(16 / r)), max(1, int(24 / r)), generator=generator)
        expected = expected + 0.4**i * torch.nn.Upsample(size=(16, 24), mode="bilinear")(small)
        if 1 in small.shape[2:]:
            break
    assert i > 1
    found = noise(shape=(8, 4, 16, 24), multires_noise_iterations=6, multires_noise_discount=0.4)
    assert torch.allclose(found, expected / expected.std(), atol=1e-6) and abs(float(found.std()) - 1) < 1e-5
    assert not torch.allclose(found, noise(shape=(8, 4, 16, 24), multires_noise_iterations=1), atol=1e-2)


def test_immiscible_noise() -> None:
    """Li et al. 2024, arXiv 2406.12303: of all ways to give the noises to the pictures, that of the least distance."""
    pytest.importorskip("scipy")
    x = torch.randn(4, 4, 2, 2, generator=seeded(3))
    plain = draw_noise(x, made(), seeded())
    found = draw_noise(x, made(immiscible_noise=True), seeded())
    ways = {order: float(((x - plain[list(order)]) ** 2).sum()) for order in itertools.permutations(range(4))}
    best = min(ways, key=lambda order: ways[order])
    assert torch.equal(found, plain[list(best)]) and best != (0, 1, 2, 3)


def test_what_the_model_sees_may_have_more_noise() -> None:
    """Ning et al. 2023, arXiv 2301.11706: e + gamma e'."""
    plain = noise()
    other = torch.randn(plain.shape, generator=seeded(9))
    seen = input_noise(plain, plain, made(ip_noise_gamma=0.1), seeded(9))
    assert torch.allclose(seen, plain + 0.1 * other, atol=1e-6)
    config = made(ip_noise_gamma=0.5, ip_noise_gamma_random_strength=True)
    strengths = [float((input_noise(plain, plain, config, seeded(seed)) - plain).std()) for seed in range(20)]
    assert 0 < min(strengths) < 0.15 and 0.35 < max(strengths) < 0.55


def times(count: int = 20_000, **train: Any) -> torch.Tensor:
    config = made(**train)
    found = SAMPLINGS.of(config)(count, seeded(), Noisy(), config)
    assert isinstance(found, torch.Tensor) and found.dtype == torch.int64 and len(found) == count
    return found


def test_uniform_times() -> None:
    assert torch.equal(times(), torch.randint(0, 1000, (20_000,), generator=seeded()))


def test_times_between_bounds() -> None:
    found = times(min_timestep=300, max_timestep=400)
    assert (int(found.min()), int(found.max())) == (300, 399)
    assert torch.equal(found, (300 + 100 * torch.rand(20_000, generator=seeded())).long())


def test_logit_normal_times() -> None:
    """Esser et al. 2024, arXiv 2403.03206, equation 19: the share below u is Phi((logit(u) - mean) / std)."""
    for mean, std, first, last in ((0.0, 1.0, 0, 1000), (0.5, 0.7, 200, 600)):
        options: dict[str, Any] = {"logit_mean": mean, "logit_std": std, "min_timestep": first, "max_timestep": last}
        found = times(timestep_sampling="logit_normal", **options)
        assert first <= int(found.min()) and int(found.max()) < last
        for place in (0.2, 0.5, 0.8):
            share = float((found < first + (last - first) * place).double().mean())
            logit = math.log(place / (1 - place))
            assert share == pytest.approx(0.5 * (1 + math.erf((logit - mean) / std / math.sqrt(2))), abs=0.015)


def factor(step: int, total: int, warmup: float = 0, **train: Any) -> float:
    return lr_factor(made(max_train_steps=total, lr_warmup_steps=warmup, **train), step)


def check_schedule(name: str, formula: Callable[[float], float], **train: Any) -> None:
    for step in range(10):
        assert factor(step, 10, lr_scheduler=name, **train) == pytest.approx(formula(step / 10), abs=1e-9)
        assert factor(step + 4, 14, 4, lr_scheduler=name, **train) == pytest.approx(formula(step / 10), abs=1e-9)
    assert [factor(step, 14, 4, lr_scheduler=name, **train) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_plain_schedules() -> None:
    check_schedule("constant", lambda progress: 1.0)
    check_schedule("linear", lambda progress: 1 - progress)
    check_schedule("cosine", lambda progress: math.cos(math.pi * progress / 2) ** 2)


def test_schedules_of_transformers() -> None:
    optimization = pytest.importorskip("transformers.optimization")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = {
        "cosine_with_restarts": optimization.get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, 4, 34, 3),
        "polynomial": optimization.get_polynomial_decay_schedule_with_warmup(optimizer, 4, 34, 0.0, 2.5),
    }
    options = {"lr_scheduler_num_cycles": 3, "lr_scheduler_power": 2.5}
    for name, schedule in theirs.items():
        (formula,) = schedule.lr_lambdas
        for step in range(4, 34):
            ours = factor(step, 34, 4, lr_scheduler=name, **options)
            assert ours == pytest.approx(formula(step), abs=1e-9), (name, step)


def test_other_schedules() -> None:
    """REX: Chen et al. 2021, arXiv 2107.04197, equation 1."""
    check_schedule("rex", lambda progress: (1 - progress) / (1 / 2 + 1 / 2 * (1 - progress)))
    restarts = {"lr_scheduler_num_cycles": 2}
    check_schedule("cosine_with_restarts", lambda progress: math.cos(math.pi * (2 * progress % 1) / 2) ** 2, **restarts)
    check_schedule("polynomial", lambda progress: (1 - progress) ** 3, lr_scheduler_power=3.0)


@pytest.mark.parametrize(("decay", "last"), [(0.25, 10), (10.0, 10), (0.0, 0), (100.0, 100)])
def test_a_rate_that_falls_at_the_end_alone(decay: float, last: int) -> None:
    """transformers' `get_wsd_schedule`: warm-up, the whole rate, half a cosine over the last steps."""
    for step in range(4, 40):
        found = factor(step, 40, 4, lr_scheduler="warmup_stable_decay", lr_decay_steps=decay)
        into = step - (40 - last)
        expected = 1.0 if into < 0 or not last else 0.5 * (1 + math.cos(math.pi * into / last))
        assert found == pytest.approx(expected, abs=1e-9), step


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "constant"])
def test_the_least_rate_is_what_a_schedule_ends_at(name: str) -> None:
    def at(step: int, **more: Any) -> float:
        return factor(step, 100, lr_scheduler=name, **more)

    for step in (0, 30, 99):
        expected = 0.2 + 0.8 * at(step)
        assert at(step, lr_scheduler_min_lr_ratio=0.2) == pytest.approx(expected)
    assert at(99, lr_scheduler_min_lr_ratio=0.2) < 0.25


def test_no_schedule_is_left_out_here() -> None:
    """Each has its formula in this file."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in SCHEDULES if f'"{name}"' not in text] == []
