"""The base's UNet and text encoder: the models and their training, together and from scratch, on cached latents."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lora_train.demo.scenes import SIZE
from tools.demo_base.optimising import Optimizers, Progress, Replayed, cosine
from tools.demo_base.vae import as_tensor
from tools.demo_base.vocabulary import MAX_LENGTH

EMA_DECAY = 0.999
FIRST_SHARE, HIGH_NOISE = 0.04, 700
"""For the first share of the steps only high noise and short captions are shown: the captions are learned first."""
DETAIL_SHARE = 0.6
"""From this share on all noise levels are drawn alike; before, the higher of two draws: captions matter most there."""
SHORT_TOKENS, SHORT_SHARE = 28, 0.85
"""Captions are padded to this few tokens for the first share of the steps: among 77, nearly all of them
padding, attention is too uniform to find the words."""
EMPTY_CAPTIONS = 0.1


@dataclass(frozen=True)
class ModelSettings:
    """Training length and batch sizes."""

    steps: int
    batch: int
    pictures: int
    muon: float = 1e-2
    adam: float = 1e-3


CPU = ModelSettings(steps=8000, batch=32, pictures=40_000)
GPU = ModelSettings(steps=9250, batch=128, pictures=100_000)


def unet_model() -> UNet2DConditionModel:
    """A small version of SD 1.x's UNet.

    The WebUI's code fixes 2 layers per block, 32 norm groups, widths that are multiples of the first,
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


def text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of 3 layers for the small vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "eager"
    return CLIPTextModel(config)


def noise_scheduler() -> DDPMScheduler:
    """The base's noise schedule.

    It ends at beta 0.02 instead of Stable Diffusion's 0.012, and the UNet predicts v: at the first steps of sampling,
    where backgrounds are decided, the picture counts fully in the loss, and the noise itself hardly shows the mean
    colour (Salimans and Ho 2022, arXiv 2202.00512; Lin et al. 2023, arXiv 2305.08891).
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """Latent means (N, 4, 16, 16), unscaled, on the CPU."""
    vae.to(device).eval()
    parts = [
        vae.encode(as_tensor(torch.from_numpy(pictures[i : i + 50]).to(device))).latent_dist.mean.cpu()
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
        weights = [value for module in self.modules_of.values() for value in module.state_dict().values()]
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [value.float() for value in weights], 1 - decay)

    def state_dict(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        return dict(self.average)

    def load_state_dict(self, state: Any, *_args: Any, **_kwargs: Any) -> Any:
        self.average = {key: state[key].to(value.device) for key, value in self.average.items()}

    def copy_to(self, modules: dict[str, torch.nn.Module]) -> None:
        """Put the averaged weights into `modules`."""
        for name, module in modules.items():
            prefix = name + "."
            own = {k[len(prefix) :]: v for k, v in self.average.items() if k.startswith(prefix)}
            module.load_state_dict(own)


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids (N, 77). Truncated rows end in an end token, too: it also pads."""
    ids: torch.Tensor = tokenizer(
        texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def train_model(
    parts: tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer],
    captions: list[tuple[str, str]],
    latents: torch.Tensor,
    work: Path,
    how: ModelSettings,
    device: torch.device,
    stop_at: int | None = None,
) -> Ema:
    """UNet and text encoder together: v loss, 10 % empty captions, EMA. `latents` have a standard deviation of about 1.

    Continues from the state in `work`, and ends after step `stop_at` where that is given.
    """
    unet, text, tokenizer = parts
    modules: dict[str, torch.nn.Module] = {
        "unet": unet.to(device, memory_format=torch.channels_last),
        "text": text.to(device),
    }
    if device.type == "cuda":  # the other kind of mask cannot be recorded in a graph
        text.set_attn_implementation("sdpa")
    optimizers, ema = Optimizers(modules, how.muon, how.adam), Ema(modules)
    progress = Progress(work / "model.pt", modules | {"optimizers": optimizers, "ema": ema})
    schedule, started = noise_scheduler(), time.monotonic()
    shown, first = torch.zeros((), device=device), progress.step
    latents = latents.to(device)
    short, full, empty = (
        tokens.to(device)
        for tokens in (
            _tokens(tokenizer, [s for s, _ in captions]),
            _tokens(tokenizer, [f for _, f in captions]),
            _tokens(tokenizer, [""]),
        )
    )

    def one_step(noisy: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        loss = F.mse_loss(unet(noisy, t, text(ids)[0]).sample, wanted)
        loss.backward()
        optimizers.step()
        return loss.detach()

    stepping = Replayed(one_step, device)
    while progress.step < min(how.steps, stop_at or how.steps):
        share = progress.step / how.steps
        generator = torch.Generator(device).manual_seed(progress.step)
        uniform = torch.rand(3, how.batch, 1, generator=generator, device=device)
        chosen = (uniform[0, :, 0] * len(latents)).long()
        beginning = share < FIRST_SHARE
        ids = short[chosen] if beginning else torch.where(uniform[1] < 0.3, short[chosen], full[chosen])
        ids = torch.where(uniform[2] < EMPTY_CAPTIONS, empty, ids)
        ids = ids[:, : SHORT_TOKENS if share < SHORT_SHARE else MAX_LENGTH]
        x = latents[chosen]
        noise = torch.randn(x.shape, generator=generator, device=device)
        draws = 2 if share < DETAIL_SHARE else 1
        low = HIGH_NOISE if beginning else 0
        t = torch.randint(low, 1000, (draws, len(x)), generator=generator, device=device).amax(dim=0)
        noisy = schedule.add_noise(x, noise, t).to(memory_format=torch.channels_last)
        optimizers.set_share(cosine(progress.step, how.steps))
        loss = stepping(noisy, t, ids, schedule.get_velocity(x, noise, t))
        progress.step += 1
        ema.update(progress.step)
        shown = shown.lerp(loss, 0.02 if progress.step > first + 1 else 1.0)
        if progress.step % 50 == 0:
            minutes = (time.monotonic() - started) / 60
            print(f"model {progress.step}/{how.steps} loss {shown.item():.4f} {minutes:.1f} min", flush=True)
        progress.save()
    progress.save(force=True)
    return ema
