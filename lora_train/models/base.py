"""What the trainer, the previews and the prompt code need from a base model of any family.

The loop never asks for the family: noise and target, latents, text, names and blocks are the
family's own. Shapes: B pictures, C latent channels, H x W pixels, h x w = H/8 x W/8 latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from lora_train.config import RunConfig
from lora_train.errors import Problem
from lora_train.models.prediction import Assumed
from lora_train.models.tokenizers import TokenizerSources

PROMPT_CHUNKS = 3
"""The chunks of a prompt that are read: 225 tokens, as captions have at most."""

Conditioning = Mapping[str, torch.Tensor]
"""Named tensors from the text encoders and the family's extra inputs, each with the batch first."""


@dataclass(frozen=True)
class Frame:
    """How a picture was cropped from its original; sizes are (width, height) in pixels."""

    original: tuple[int, int]
    crop: tuple[int, int]
    """Left and top of the crop, in the picture scaled to cover `target`."""
    target: tuple[int, int]

    @classmethod
    def whole(cls, width: int, height: int) -> Frame:
        """An uncropped picture, as wanted of generated ones."""
        return cls((width, height), (0, 0), (width, height))


@dataclass(frozen=True)
class Look:
    """What is known about a base model before it is loaded."""

    family: str
    schedule: dict[str, Any]
    """What it says of its noise: Stable Diffusion's have a scheduler configuration, see `Parts`."""
    native_resolution: int
    """The side in pixels that it was trained at."""


@dataclass
class Parts:
    """The loaded parts of a base model, before a family interprets them."""

    source: Path
    unet: nn.Module
    vae: nn.Module
    text_encoders: list[nn.Module]
    tokenizers: list[Any]
    padding: tuple[int | None, ...] = (None,)
    """The token id that pads each tokenizer's rows; None: its own."""
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    """With `prediction_type` and `rescale_betas_zero_snr`, as diffusers has them."""
    notes: tuple[str, ...] = ()
    """Notes for the person on what had to be assumed."""
    family: str = ""
    """The family's name, see `records.families.FAMILIES`."""


class BaseModel(Protocol):
    """A base model of some family."""

    family: str
    version: str
    """kohya's `ss_base_model_version`, for example "sd_v1"."""
    architecture: str
    """The `modelspec.architecture` of a LoRA for it."""
    implementation: str
    """The `modelspec.implementation` of a LoRA for it: whose module names the file has."""
    text_prefixes: tuple[str, ...]
    """The prefixes, in files, of the text encoders that can be trained, in order."""
    notes: tuple[str, ...]
    """Notes on what had to be assumed when it was opened."""
    guidance: float
    """The usual guidance scale of a preview."""
    source: Path
    native_resolution: int
    size_step: int
    """Sides of pictures must be multiples of this."""
    device: torch.device

    @property
    def vae_hash(self) -> str:
        """Identifies the VAE and its weights in the latent cache's keys."""
        ...

    @property
    def prediction_type(self) -> str:
        """ "epsilon" or "v_prediction"."""
        ...

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last training time is pure noise."""
        ...

    def roots(self) -> dict[str, nn.Module]:
        """The modules that networks attach to, by the file format's prefix ("lora_unet", "lora_te")."""
        ...

    def layers(self) -> dict[str, nn.Module]:
        """Every module that a LoRA file may have a network for, targets of ours or not, by each of the names that files
        have for it; the usual name first."""
        ...

    def module_names(self, convolutions: bool = False, norms: bool = False) -> dict[str, str]:
        """For each targeted module: name in files ("lora_unet_...") to its path ("lora_unet:down...").

        With `convolutions` also those outside the transformer blocks (LoCon), with `norms` the UNet's norms."""
        ...

    def block_of(self, name: str) -> str:
        """The block of a module by its name in files: "IN00" ..., "M00", "OUT00" ..., or "BASE" (all else).

        The names of the block-weight extensions of the WebUI."""
        ...

    def checkpoint_activations(self, share: float = 1.0) -> None:
        """From now on this share of the UNet's blocks, the first ones, keep no activations for the backward pass, which
        recomputes them. What the first blocks would keep is held longest."""
        ...

    def vae_to(self, device: torch.device) -> None:
        """Move what `encode_pictures` needs to `device`, in fp32, and nothing else."""
        ...

    def texts_to(self, device: torch.device) -> None:
        """Move the text encoders to `device`, and nothing else. Elsewhere than on the model's own device they wait:
        `encode_text` brings them in, and they go back after it."""
        ...

    def texts_at_work(self) -> AbstractContextManager[None]:
        """Within the block the text encoders are on the model's device."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Compute on `device` from now on: UNet and text encoders move there, in `dtype`. The VAE, in fp32, stays where
        it is, and is on `device` only while it decodes.

        Freshly opened weights may have the dtype of their file: call this before computing anything."""
        ...

    def encode_pictures(self, pixels: torch.Tensor, tiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels (B, 3, H, W) in [-1, 1] to the posterior's mean and standard deviation, unscaled.

        `tiled` needs less memory for large pictures, and differs a little where tiles meet."""
        ...

    def scale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """VAE latents to the values that the UNet expects."""
        ...

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) to pixels (B, 3, H, W) in [-1, 1]."""
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Shape of one picture's latents."""
        ...

    @property
    def text_room(self) -> int:
        """How many tokens of a caption are read.

        A family with the feature CHUNKS also has `text_chunks`, which can be set: how many chunks of 75 tokens that
        is, 1 when it is opened (see `reading`); one with WEIGHTED has `text_weights`: whether captions have weights."""
        ...

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, without the start and end tokens."""
        ...

    def encode_text(self, captions: Sequence[str], clip_skip: int = 1) -> Conditioning:
        """Captions to conditioning; differentiable, so that text encoders can be trained."""
        ...

    def unconditional(self, negatives: Sequence[str], encoded: Conditioning) -> Conditioning:
        """The unconditional input of guidance: the encoded negative prompts, or what stands for empty ones."""
        ...

    def extra_inputs(self, frames: Sequence[Frame]) -> Conditioning:
        """What the model receives about each picture besides its text, to be merged into the conditioning."""
        ...

    @property
    def training_times(self) -> int:
        """Where the times end, which begin with 0, the clean picture: 1000, or 1 where a time is a share of noise."""
        ...

    def as_times(self, places: torch.Tensor) -> torch.Tensor:
        """Places between 0 and `training_times` (float) as times of this model: whole numbers, where it has those."""
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


@contextmanager
def reading(model: BaseModel, chunks: int) -> Iterator[None]:
    """Texts of up to so many chunks of 75 tokens are read within the block; without effect on a family whose room is
    fixed."""
    before = getattr(model, "text_chunks", None)
    if before is not None:
        model.text_chunks = chunks  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if before is not None:
            model.text_chunks = before  # type: ignore[attr-defined]


class Opening(Protocol):
    """Recognises and opens the checkpoints of one or several families; named in their records."""

    def look(self, path: Path) -> Look | None:
        """What can be known of the model at `path` without loading it; None where it is of none of these families.

        Raises LoraTrainError where it is, and cannot be trained."""
        ...

    def refusals(self, look: Look, config: RunConfig) -> list[Problem]:
        """Options that mean nothing for this model, each with the reason, besides those that its family's record
        knows."""
        ...

    def require_tokenizer(self, path: Path, sources: TokenizerSources) -> None:
        """Raise LoraTrainError where the model at `path` brings no tokenizer and `sources` has none. Loads neither."""
        ...

    def open(self, path: Path, tokenizers: TokenizerSources, assumed: Assumed) -> BaseModel:
        """The model at `path` in CPU memory, in the dtype of its file. Raises LoraTrainError."""
        ...
