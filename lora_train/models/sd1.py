"""Stable Diffusion 1.x: one CLIP text encoder, an epsilon UNet, an f8 VAE with 4 channels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_train.models.base import Conditioning, Parts
from lora_train.models.ddpm import NoiseProcess
from lora_train.models.text import encode_clip, file_name_of

UNET_TARGETS = re.compile(r"(?:down_blocks|mid_block|up_blocks)\..*attentions\.\d+\..+")
UNET_CONV_TARGETS = re.compile(
    r"(?:down_blocks|mid_block|up_blocks)\..*(?:attentions|resnets|downsamplers|upsamplers)\.\d+\..+"
)
TEXT_TARGETS = re.compile(r"(?:text_model\.)?encoder\.layers\.\d+\.(?:self_attn|mlp)\..+")


NORMS = (nn.LayerNorm, nn.GroupNorm)


class StableDiffusion1:
    """The SD 1.x family."""

    family = "sd1"
    version = "sd_v1"
    architecture = "stable-diffusion-v1/lora"
    size_step = 8

    def __init__(self, parts: Parts) -> None:
        self.source: Path = parts.source
        self.unet: Any = parts.unet
        self.vae: Any = parts.vae
        self.text_encoder: Any = parts.text_encoders[0]
        self.tokenizer: Any = parts.tokenizers[0]
        self.scheduler_config = dict(parts.scheduler_config)
        self.process = NoiseProcess.of_config(self.scheduler_config)
        self.device = torch.device("cpu")
        self.native_resolution = int(self.unet.config.sample_size) * 8
        self.vae_hash = _weights_hash(self.vae)
        # kohya's UNets shrink sizes as they go down: sides must divide by 8 at each level's stride
        self.size_step = 8 * 2 ** (len(self.unet.config.block_out_channels) - 1)
        for module in (self.unet, self.vae, self.text_encoder):
            module.requires_grad_(False).eval()

    @property
    def prediction_type(self) -> str:
        """ "epsilon" or "v_prediction"."""
        return self.process.prediction_type

    def roots(self) -> dict[str, nn.Module]:
        """See BaseModel."""
        return {"lora_unet": self.unet, "lora_te": self.text_encoder}

    def module_names(self, convolutions: bool = False, norms: bool = False) -> dict[str, str]:
        """See BaseModel. Default targets are kohya's: every Linear and 1x1 conv of the attention
        blocks, and of the text encoder's attention and MLP; with `convolutions` also all modules of the
        residual, down- and upsampling blocks; with `norms` the norms of all these blocks."""
        names = {}
        for prefix, root, pattern in (
            ("lora_unet", self.unet, UNET_CONV_TARGETS if convolutions else UNET_TARGETS),
            ("lora_te", self.text_encoder, TEXT_TARGETS),
        ):
            for path, module in root.named_modules():
                norm = norms and isinstance(module, NORMS) and UNET_CONV_TARGETS.fullmatch(path)
                if norm or (pattern.fullmatch(path) and _is_target(module, convolutions)):
                    spelled = file_name_of(path) if prefix == "lora_te" else path
                    names[f"{prefix}_{spelled.replace('.', '_')}"] = f"{prefix}:{path}"
        return names

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """See BaseModel."""
        self.device = device
        for module, its_dtype in ((self.unet, dtype), (self.text_encoder, dtype), (self.vae, torch.float32)):
            nn.Module.to(module, device, its_dtype)  # diffusers' own `to` warns about what it does not do
        self.process.to(device)

    @torch.no_grad()
    def encode_pictures(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See BaseModel."""
        posterior = self.vae.encode(pixels.to(self.device, torch.float32)).latent_dist
        return posterior.mean, posterior.std

    def scale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        return latents * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See BaseModel. One picture at a time: decoding needs more memory than anything else."""
        unscaled = latents.to(self.device, torch.float32) / float(self.vae.config.scaling_factor)
        return torch.cat([self.vae.decode(one).sample for one in unscaled.split(1)])

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See BaseModel."""
        return int(self.vae.config.latent_channels), height // 8, width // 8

    def encode_text(self, captions: Sequence[str], clip_skip: int = 1) -> Conditioning:
        """See BaseModel: {"states": (B, 77, D)}."""
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)
        return {"states": encode_clip(self.text_encoder, tokens, clip_skip)}

    def draw_timesteps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """See BaseModel: uniform integers."""
        last = len(self.process.alphas_cumprod)
        return torch.randint(0, last, (count,), generator=generator).to(self.device)

    def noised(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        return self.process.noised(x, noise, t)

    def target(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        return self.process.target(x, noise, t)

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        return self.process.snr(t)

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """See BaseModel."""
        dtype = self.unet.dtype
        return self.unet(noisy.to(dtype), t, conditioning["states"].to(dtype)).sample  # type: ignore[no-any-return]

    def sampler(self, steps: int) -> Any:
        """See BaseModel: DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095), trailing timesteps."""
        from diffusers import DPMSolverMultistepScheduler

        config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        config |= {k: v for k, v in self.scheduler_config.items() if not k.startswith("_")}
        config |= {"timestep_spacing": "trailing", "prediction_type": self.prediction_type}
        scheduler = DPMSolverMultistepScheduler.from_config(config)
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler


def _is_target(module: nn.Module, convolutions: bool) -> bool:
    if isinstance(module, nn.Conv2d):
        return convolutions or module.kernel_size == (1, 1)
    return isinstance(module, nn.Linear)


def _weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights as loaded, for the latent cache's keys."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
