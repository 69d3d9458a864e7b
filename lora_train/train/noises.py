"""Noise; see `config.training_methods.NOISES` for the signature. All of it is drawn on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lora_train.config import RunConfig
from lora_train.config.training_methods import INPUT_NOISES, NOISES


def draw_noise(x: torch.Tensor, config: RunConfig, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise for the latents `x`, changed by the run's noise methods, (B, C, h, w)."""
    noise = torch.randn(x.shape, generator=generator)
    for method in NOISES.active(config):
        noise = method(noise, x, generator, config)
    return noise


def input_noise(noise: torch.Tensor, x: torch.Tensor, config: RunConfig, generator: torch.Generator) -> torch.Tensor:
    """The noise in the model's input: the noise that it is trained to predict, or a perturbed one."""
    for method in INPUT_NOISES.active(config):
        noise = method(noise, x, generator, config)
    return noise


def offset(noise: torch.Tensor, x: torch.Tensor, generator: torch.Generator, config: RunConfig) -> torch.Tensor:
    """A random constant for each picture and channel (N. Guttenberg, "Diffusion with offset noise", 2023).

    Its strength may be random from 0 to the given one, and grow with the absolute mean of the channel (sd-scripts).
    """
    train = config.train
    strength: float | torch.Tensor = train.noise_offset
    if train.noise_offset_random_strength:
        strength = strength * torch.rand(1, generator=generator)
    if train.adaptive_noise_scale:
        mean = x.cpu().float().mean(dim=(2, 3), keepdim=True).abs()
        strength = (strength + train.adaptive_noise_scale * mean).clamp(min=0)
    return noise + strength * torch.randn((*noise.shape[:2], 1, 1), generator=generator)


def multires(noise: torch.Tensor, x: torch.Tensor, generator: torch.Generator, config: RunConfig) -> torch.Tensor:
    """Adds noise of decreasing resolutions, the i-th with strength discount^i (J. Whitaker, "Multi-resolution noise
    for diffusion model training", 2023). The i-th is smaller by r^i, r from 2 to 4; the first is of full size."""
    size = noise.shape[2:]
    for i in range(config.train.multires_noise_iterations):
        shrink = (2 + 2 * float(torch.rand(1, generator=generator))) ** i
        small = [max(1, int(side / shrink)) for side in size]
        layer = torch.randn((*noise.shape[:2], *small), generator=generator)
        noise = noise + F.interpolate(layer, size, mode="bilinear") * config.train.multires_noise_discount**i
        if 1 in small:
            break
    return noise / noise.std()


def immiscible(noise: torch.Tensor, x: torch.Tensor, generator: torch.Generator, config: RunConfig) -> torch.Tensor:
    """The batch's noise samples, assigned to its pictures with the smallest sum of squared distances (Li et al. 2024,
    arXiv 2406.12303)."""
    from scipy.optimize import linear_sum_assignment

    distances = torch.cdist(x.cpu().float().flatten(1), noise.flatten(1)) ** 2
    _, nearest = linear_sum_assignment(distances.numpy())
    return noise[torch.from_numpy(nearest)]


def input_perturbation(
    noise: torch.Tensor, x: torch.Tensor, generator: torch.Generator, config: RunConfig
) -> torch.Tensor:
    """e + gamma e', with other noise e' (Ning et al. 2023, arXiv 2301.11706); gamma may be random, from 0 up."""
    strength: float | torch.Tensor = config.train.ip_noise_gamma
    if config.train.ip_noise_gamma_random_strength:
        strength = strength * torch.rand(1, generator=generator)
    return noise + strength * torch.randn(noise.shape, generator=generator)
