"""The base's VAE: the model and its training."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from lora_train.demo.scenes import SIZE
from tools.demo_base.optimising import Optimizers, Progress, Replayed, cosine

CROP = 64
KL_WEIGHT = 1e-6
NOISE, NOISE_FROM, NOISE_OVER = 0.04, 1500, 1000
"""Noise added to latents before decoding, as a share of their standard deviation, faded in over NOISE_OVER steps: with
so small a KL weight they could hide what matters in the fourth digit, where no diffusion model can find it."""


@dataclass(frozen=True)
class VaeSettings:
    """Training length and batch sizes; crops first (cheap), whole pictures last (norms see other statistics there)."""

    crop_steps: int
    crop_batch: int
    full_steps: int
    full_batch: int
    pictures: int
    muon: float = 1.5e-2
    adam: float = 2e-3


CPU = VaeSettings(crop_steps=6500, crop_batch=8, full_steps=3500, full_batch=3, pictures=16_000)
GPU = VaeSettings(crop_steps=0, crop_batch=1, full_steps=6000, full_batch=32, pictures=48_000)


def vae_model() -> AutoencoderKL:
    """The f8 VAE. Four channels per norm group: with one, a flat colour's mean would be lost."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
    )


def as_tensor(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def train_vae(
    vae: AutoencoderKL,
    pictures: np.ndarray,
    unseen: np.ndarray,
    work: Path,
    how: VaeSettings,
    device: torch.device,
    stop_at: int | None = None,
) -> None:
    """Train with L1 and squared error of the pixels and a small KL weight, and report the round trip of `unseen`.

    Continues from the state in `work`, and ends after step `stop_at` where that is given.
    """
    vae.to(device, memory_format=torch.channels_last)
    total = how.crop_steps + how.full_steps
    optimizers = Optimizers({"vae": vae}, how.muon, how.adam)
    progress = Progress(work / "vae.pt", {"vae": vae, "optimizers": optimizers})
    held = torch.from_numpy(pictures).to(device)

    def one_step(x: torch.Tensor, drawn: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * drawn
        y = vae.decode(z + added * z.detach().std()).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = F.l1_loss(y, x) + F.mse_loss(y, x) + KL_WEIGHT * kl
        loss.backward()
        optimizers.step()
        return loss.detach()

    stepping = Replayed(one_step, device)
    shown, started, first = torch.zeros((), device=device), time.monotonic(), progress.step
    while progress.step < min(total, stop_at or total):
        generator = torch.Generator(device).manual_seed(progress.step)
        rng = random.Random(progress.step)
        crops = progress.step < how.crop_steps
        batch, side = (how.crop_batch, CROP) if crops else (how.full_batch, SIZE)
        chosen = held[torch.randint(len(held), (batch,), generator=generator, device=device)]
        if crops:
            top, left = rng.randrange(SIZE - CROP + 1), rng.randrange(SIZE - CROP + 1)
            chosen = chosen[:, top : top + CROP, left : left + CROP]
        x = as_tensor(chosen).to(memory_format=torch.channels_last)
        shape = (batch, 4, side // 8, side // 8)
        drawn = torch.randn(shape, generator=generator, device=device)
        share = min(1.0, max(0.0, (progress.step - NOISE_FROM) / NOISE_OVER))
        added = NOISE * share * torch.randn(shape, generator=generator, device=device)
        optimizers.set_share(cosine(progress.step, total))
        loss = stepping(x, drawn, added)
        progress.step += 1
        shown = shown.lerp(loss, 0.02 if progress.step > first + 1 else 1.0)
        if progress.step % 100 == 0:
            minutes = (time.monotonic() - started) / 60
            print(f"vae {progress.step}/{total} loss {shown.item():.4f} {minutes:.1f} min", flush=True)
        if progress.step % 500 == 0 or progress.step == total:
            print(f"vae {progress.step}/{total} unseen drawings {round_trip(vae, unseen):.2f} dB", flush=True)
        progress.save()
    progress.save(force=True)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """Mean PSNR in dB of pictures (uint8, (N, 128, 128, 3)) after encoding and decoding."""
    device = next(vae.parameters()).device
    x = as_tensor(torch.from_numpy(pictures).to(device))
    y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return float((-10 * torch.log10(((x - y) ** 2).mean(dim=(1, 2, 3)) / 4)).mean())
