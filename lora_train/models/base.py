"""What the trainer, the previews and the prompt code need of a base model, whichever its family.

The loop never asks which family it has: noise and target, latents, text, names and blocks are the
family's own. Shapes: B pictures, C latent channels, H x W pixels, h x w = H/8 x W/8 latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

Conditioning = Mapping[str, torch.Tensor]
"""Named tensors from the text encoders, each with the batch first."""


@dataclass
class Parts:
    """The loaded pieces of a base model, before a family makes sense of them."""

    source: Path
    unet: nn.Module
    vae: nn.Module
    text_encoders: list[nn.Module]
    tokenizers: list[Any]
    scheduler_config: dict[str, Any] = field(default_factory=dict)


class BaseModel(Protocol):
    """A base model of some family."""

    family: str
    version: str
    """kohya's `ss_base_model_version`, for example "sd_v1"."""
    architecture: str
    """The `modelspec.architecture` of a LoRA for it."""
    source: Path
    vae_hash: str
    native_resolution: int
    size_step: int
    """Sides of pictures must be multiples of this."""
    device: torch.device

    @property
    def prediction_type(self) -> str:
        """ "epsilon" or "v_prediction"."""
        ...

    def roots(self) -> dict[str, nn.Module]:
        """The modules that networks attach to, by the file format's prefix ("lora_unet", "lora_te")."""
        ...

    def module_names(self, convolutions: bool = False, norms: bool = False) -> dict[str, str]:
        """For each targeted module: name in files ("lora_unet_...") to its path ("lora_unet:down...").

        With `convolutions` also those outside the transformer blocks (LoCon), with `norms` the UNet's norms."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move everything to `device`; UNet and text encoders to `dtype`, the VAE stays fp32."""
        ...

    def encode_pictures(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels (B, 3, H, W) in [-1, 1] to the posterior's mean and standard deviation, unscaled."""
        ...

    def scale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """VAE latents to the values that the UNet works on."""
        ...

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) to pixels (B, 3, H, W) in [-1, 1]."""
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Shape of one picture's latents."""
        ...

    def encode_text(self, captions: Sequence[str], clip_skip: int = 1) -> Conditioning:
        """Captions to conditioning; differentiable, so that text encoders can be trained."""
        ...

    def draw_timesteps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """`count` training times from a CPU generator, on the model's device."""
        ...

    def noised(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The latents `x` at time `t`."""
        ...

    def target(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the model should predict for them."""
        ...

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio at `t`, (B,)."""
        ...

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The model's prediction for `noisy` at `t`."""
        ...

    def sampler(self, steps: int) -> Any:
        """A diffusers scheduler with its timesteps set, for previews."""
        ...
