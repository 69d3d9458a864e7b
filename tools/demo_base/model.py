"""The base's UNet and text encoder: the models and their training, together and from nothing, on cached latents."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from lora_train.demo.pretrain import noise_scheduler
from lora_train.demo.pretrain import text_model as text_model
from lora_train.demo.scenes import SIZE
from lora_train.demo.vocabulary import MAX_LENGTH
from tools.demo_base.optimising import Optimizers, Progress, cosine
from tools.demo_base.vae import as_tensor

EMA_DECAY = 0.999
FIRST_SHARE, HIGH_NOISE = 0.04, 700
"""For the first share of the steps only high noise and short captions are shown: reading is learned first."""
DETAIL_SHARE = 0.6
"""From this share on all noise levels count alike; before, the higher of two draws: captions decide most there."""
SHORT_TOKENS, SHORT_SHARE = 28, 0.85
"""Captions are padded to so few tokens for the first share of the steps: among 77, nearly all of them
padding, attention is too even to find the words."""
EMPTY_CAPTIONS = 0.1


@dataclass(frozen=True)
class ModelSettings:
    """How long and in which batches."""

    steps: int
    batch: int
    muon: float = 1e-2
    adam: float = 1e-3


CPU = ModelSettings(steps=8000, batch=32)
GPU = ModelSettings(steps=14_000, batch=128)


def unet_model() -> UNet2DConditionModel:
    """SD 1.x's UNet, small.

    The WebUI's code fixes 2 layers a block, 32 norm groups, widths that are multiples of the first,
    and no attention at the innermost level (its Lora extension counts blocks that way).
    """
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(64, 128, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
    )


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """Latent means (N, 4, 16, 16), unscaled, on the CPU."""
    vae.to(device).eval()
    parts = [
        vae.encode(as_tensor(pictures[i : i + 50]).to(device)).latent_dist.mean.cpu()
        for i in range(0, len(pictures), 50)
    ]
    return torch.cat(parts)


class Ema(torch.nn.Module):
    """An exponential moving average of several modules' weights."""

    def __init__(self, modules: dict[str, torch.nn.Module]) -> None:
        super().__init__()
        self.modules_of = modules
        self.average = {
            f"{name}.{key}": value.detach().clone().float()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights; the first steps count less."""
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for name, module in self.modules_of.items():
            for key, value in module.state_dict().items():
                self.average[f"{name}.{key}"].lerp_(value.float(), 1 - decay)

    def state_dict(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        return dict(self.average)

    def load_state_dict(self, state: Any, *_args: Any, **_kwargs: Any) -> Any:
        self.average = {key: value.to(self.average[key].device) for key, value in state.items()}

    def copy_to(self, modules: dict[str, torch.nn.Module]) -> None:
        """Put the averaged weights into `modules`."""
        for name, module in modules.items():
            prefix = name + "."
            own = {k[len(prefix) :]: v for k, v in self.average.items() if k.startswith(prefix)}
            module.load_state_dict(own)


def train_model(
    parts: tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer],
    captions: list[tuple[str, str]],
    latents: torch.Tensor,
    work: Path,
    how: ModelSettings,
    device: torch.device,
    stop_at: int | None = None,
) -> Ema:
    """UNet and text encoder together: v loss, 10 % empty captions, EMA. `latents` have a deviation of about 1.

    It goes on from the state in `work`, and ends after step `stop_at` where that is given.
    """
    unet, text, tokenizer = parts
    modules: dict[str, torch.nn.Module] = {
        "unet": unet.to(device, memory_format=torch.channels_last),
        "text": text.to(device),
    }
    optimizers, ema = Optimizers(modules, how.muon, how.adam), Ema(modules)
    progress = Progress(work / "model.pt", modules | {"optimizers": optimizers, "ema": ema})
    schedule, shown, started = noise_scheduler(), 0.0, time.monotonic()
    latents = latents.to(device)
    while progress.step < min(how.steps, stop_at or how.steps):
        share = progress.step / how.steps
        rng = random.Random(progress.step)
        generator = torch.Generator().manual_seed(progress.step)
        chosen = torch.randint(len(latents), (how.batch,), generator=generator)
        beginning = share < FIRST_SHARE
        words = [captions[i][0 if beginning or rng.random() < 0.3 else 1] for i in chosen.tolist()]
        words = ["" if rng.random() < EMPTY_CAPTIONS else text for text in words]
        length = SHORT_TOKENS if share < SHORT_SHARE else MAX_LENGTH
        tokens = tokenizer(words, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        x = latents[chosen.to(device)]
        noise = torch.randn(x.shape, generator=generator).to(device)
        draws = 2 if share < DETAIL_SHARE else 1
        low = HIGH_NOISE if beginning else 0
        t = torch.randint(low, 1000, (draws, len(x)), generator=generator).amax(dim=0).to(device)
        noisy = schedule.add_noise(x, noise, t).to(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            predicted = unet(noisy, t, text(tokens.input_ids.to(device))[0]).sample
        loss = F.mse_loss(predicted.float(), schedule.get_velocity(x, noise, t))
        loss.backward()
        optimizers.step(cosine(progress.step, how.steps))
        progress.step += 1
        ema.update(progress.step)
        if progress.step % 50 == 0:
            value = loss.item()
            shown = 0.8 * shown + 0.2 * value if shown else value
            minutes = (time.monotonic() - started) / 60
            print(f"model {progress.step}/{how.steps} loss {shown:.4f} {minutes:.1f} min", flush=True)
        progress.save()
    progress.save(force=True)
    return ema
