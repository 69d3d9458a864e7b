"""Text to picture with any family: classifier-free guidance (Ho and Salimans 2022) and a sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from lora_train.models.base import BaseModel


@dataclass(frozen=True)
class Request:
    """Pictures to make: one per entry of `seeds`; sides in pixels."""

    prompt: str
    seeds: Sequence[int]
    width: int
    height: int
    negative: str = ""
    steps: int = 20
    guidance: float = 7.0
    clip_skip: int = 1


@torch.no_grad()
def sample(
    model: BaseModel,
    request: Request,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Image.Image]:
    """Make the pictures. A seed's noise comes from a CPU generator: the same on every device.

    `progress(done, total)` is called after each step and may raise to stop.
    """
    step = model.size_step
    shape = model.latent_shape(request.width // step * step, request.height // step * step)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in request.seeds]
    sampler = model.sampler(request.steps)
    x = torch.stack(noise).to(model.device) * sampler.init_noise_sigma
    guided = request.guidance != 1.0
    texts = [request.negative, request.prompt] if guided else [request.prompt]
    encoded = model.encode_text(texts, request.clip_skip)
    conditioning = {k: v.repeat_interleave(len(x), dim=0) for k, v in encoded.items()}
    for done, t in enumerate(sampler.timesteps, start=1):
        rows = sampler.scale_model_input(torch.cat([x] * len(texts)), t)
        predicted = model.predict(rows, t.expand(len(rows)), conditioning).float()
        if guided:
            without, with_prompt = predicted.chunk(2)
            predicted = without + request.guidance * (with_prompt - without)
        x = sampler.step(predicted, t, x).prev_sample
        progress(done, len(sampler.timesteps))
    return [_as_picture(pixels) for pixels in model.decode_latents(x)]


def _as_picture(pixels: torch.Tensor) -> Image.Image:
    """Pixels (3, H, W) in [-1, 1] to an RGB picture."""
    values = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
