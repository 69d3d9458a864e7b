"""Text to picture with any family: classifier-free guidance (Ho and Salimans 2022) and a sampler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from lora_train.config.choices import SAMPLERS
from lora_train.errors import LoraTrainError
from lora_train.models.base import PROMPT_CHUNKS, BaseModel, Conditioning, Frame, reading
from lora_train.tensors import is_finite

RESCALE = 0.7
"""phi of Lin et al. 2023 (arXiv 2305.08891), for bases with zero terminal SNR."""


@dataclass(frozen=True)
class Request:
    """Pictures to make: one per entry of `seeds`; sides in pixels. `prompt` may be one for each picture."""

    prompt: str | Sequence[str]
    seeds: Sequence[int]
    width: int
    height: int
    negative: str = ""
    steps: int = 20
    guidance: float = 7.0
    clip_skip: int = 1
    sampler: str = ""
    """One of `config.choices.SAMPLERS`; "": the family's own."""


@torch.no_grad()
def sample(
    model: BaseModel,
    request: Request,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Image.Image]:
    """Make the pictures. A seed's noise comes from a CPU generator: the same on every device.

    `progress(done, total)` is called after each step and may raise to stop. Raises LoraTrainError when the
    model's output is not finite: such a picture would be black.
    """
    step = model.size_step
    width, height = request.width // step * step, request.height // step * step
    shape = model.latent_shape(width, height)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in request.seeds]
    sampler = _sampler(model, request)
    drawing = _drawing(sampler, request)
    x = torch.stack(noise).to(model.device) * sampler.init_noise_sigma
    guided = request.guidance != 1.0
    rows_per_picture = 2 if guided else 1
    frames = [Frame.whole(width, height)] * (len(request.seeds) * rows_per_picture)
    conditioning = {**_conditioning(model, request, guided), **model.extra_inputs(frames)}
    for done, t in enumerate(sampler.timesteps, start=1):
        rows = sampler.scale_model_input(torch.cat([x] * rows_per_picture), t)
        predicted = model.predict(rows, t.expand(len(rows)), conditioning).float()
        if guided:
            without, with_prompt = predicted.chunk(2)
            predicted = without + request.guidance * (with_prompt - without)
            if model.zero_terminal_snr:
                predicted = _rescaled(predicted, with_prompt)
        x = sampler.step(predicted, t, x, **drawing).prev_sample
        progress(done, len(sampler.timesteps))
    decoded = model.decode_latents(x)
    if not is_finite(decoded):
        raise LoraTrainError(
            "the picture contains NaN or infinite values.", "", "Compute in fp32 or bf16, or lower the LoRA's strength."
        )
    return [_as_picture(pixels) for pixels in decoded]


def _sampler(model: BaseModel, request: Request) -> Any:
    """The family's own sampler, or the one that is asked for with the same noise schedule; those without one (flow
    matching) have no other."""
    own = model.sampler(request.steps)
    name = SAMPLERS.get(request.sampler, ("", ""))[0]
    if not name or "beta_schedule" not in own.config:
        return own
    import diffusers

    kind = getattr(diffusers, name)
    known = set(inspect.signature(kind.__init__).parameters)
    sampler = kind.from_config({key: value for key, value in own.config.items() if key in known})
    sampler.set_timesteps(request.steps, device=model.device)
    return sampler


def _drawing(sampler: Any, request: Request) -> dict[str, Any]:
    """What a step that draws noise draws it from: the first picture's seed, and not the process's generator."""
    if "generator" not in inspect.signature(sampler.step).parameters:
        return {}
    return {"generator": torch.Generator().manual_seed(request.seeds[0])}


def _conditioning(model: BaseModel, request: Request, guided: bool) -> Conditioning:
    """A row for each picture's negative prompt (when guided), then one for each picture's prompt."""
    count = len(request.seeds)
    prompts = [request.prompt] * count if isinstance(request.prompt, str) else list(request.prompt)
    rows = [request.negative] * count + prompts if guided else prompts
    different = list(dict.fromkeys(rows))
    with reading(model, PROMPT_CHUNKS):  # whatever the captions of a training have
        encoded = model.encode_text(different, request.clip_skip)
    index = torch.tensor([different.index(text) for text in rows], device=model.device)
    taken = {name: states[index] for name, states in encoded.items()}
    if not guided:
        return taken
    negative = model.unconditional(rows[:count], {name: states[:count] for name, states in taken.items()})
    return {name: torch.cat([negative[name], states[count:]]) for name, states in taken.items()}


def _rescaled(guided: torch.Tensor, with_prompt: torch.Tensor) -> torch.Tensor:
    """Guidance without overexposure: the standard deviation of each picture moved towards that of the prediction with
    the prompt."""
    inner = tuple(range(1, guided.ndim))
    spread = guided * (with_prompt.std(inner, keepdim=True) / guided.std(inner, keepdim=True))
    return RESCALE * spread + (1 - RESCALE) * guided


def _as_picture(pixels: torch.Tensor) -> Image.Image:
    """Pixels (3, H, W) in [-1, 1] to an RGB picture."""
    values = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
