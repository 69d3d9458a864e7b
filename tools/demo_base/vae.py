"""The base's VAE: the model and its training."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from lora_train.demo.scenes import SIZE
from tools.demo_base.optimising import Optimizers, Progress, cosine

CROP = 64
KL_WEIGHT = 1e-6
NOISE, NOISE_FROM, NOISE_OVER = 0.04, 1500, 1000
"""Latents are decoded with so much noise, as a share of their deviation, which comes in over NOISE_OVER steps: with
a KL weight that small they may hide what matters in the fourth digit, where no diffusion model finds it again."""


@dataclass(frozen=True)
class VaeSettings:
    """How long and in which batches; crops first (cheap), whole pictures last (norms see other statistics there)."""

    crop_steps: int
    crop_batch: int
    full_steps: int
    full_batch: int
    muon: float = 1.5e-2
    adam: float = 2e-3


CPU = VaeSettings(crop_steps=6500, crop_batch=8, full_steps=3500, full_batch=3)
GPU = VaeSettings(crop_steps=0, crop_batch=1, full_steps=6000, full_batch=32)


def vae_model() -> AutoencoderKL:
    """The f8 VAE. Four channels a norm group: with one, a flat colour's mean would be lost."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
    )


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


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

    It goes on from the state in `work`, and ends after step `stop_at` where that is given.
    """
    vae.to(device, memory_format=torch.channels_last)
    total = how.crop_steps + how.full_steps
    optimizers = Optimizers({"vae": vae}, how.muon, how.adam)
    progress = Progress(work / "vae.pt", {"vae": vae, "optimizers": optimizers})
    shown, started = 0.0, time.monotonic()
    while progress.step < min(total, stop_at or total):
        rng = np.random.default_rng([3, progress.step])
        torch.manual_seed(progress.step)
        if progress.step < how.crop_steps:
            top, left = rng.integers(SIZE - CROP + 1, size=2)
            chosen = pictures[rng.integers(len(pictures), size=how.crop_batch)]
            chosen = chosen[:, top : top + CROP, left : left + CROP]
        else:
            chosen = pictures[rng.integers(len(pictures), size=how.full_batch)]
        x = as_tensor(chosen).to(device, memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            posterior = vae.encode(x).latent_dist
            z = posterior.sample()
            share = min(1.0, max(0.0, (progress.step - NOISE_FROM) / NOISE_OVER))
            y = vae.decode(z + NOISE * share * z.detach().std() * torch.randn_like(z)).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = F.l1_loss(y.float(), x) + F.mse_loss(y.float(), x) + KL_WEIGHT * kl
        loss.backward()
        optimizers.step(cosine(progress.step, total))
        progress.step += 1
        shown = 0.98 * shown + 0.02 * loss.item() if shown else loss.item()
        if progress.step % 100 == 0:
            minutes = (time.monotonic() - started) / 60
            print(f"vae {progress.step}/{total} loss {shown:.4f} {minutes:.1f} min", flush=True)
        if progress.step % 500 == 0 or progress.step == total:
            print(f"vae {progress.step}/{total} unseen drawings {round_trip(vae, unseen):.2f} dB", flush=True)
        progress.save()
    progress.save(force=True)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """Mean PSNR in dB of pictures (uint8, (N, 128, 128, 3)) after encoding and decoding."""
    device = next(vae.parameters()).device
    x = as_tensor(pictures).to(device)
    y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return float((-10 * torch.log10(((x - y) ** 2).mean(dim=(1, 2, 3)) / 4)).mean())
