"""What SD 1.x, SD 2.x and SDXL share: a UNet on f8 latents of 4 channels, CLIP text encoders, DDPM noise."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_train.config import RunConfig
from lora_train.device import sent
from lora_train.errors import Problem
from lora_train.memory import forget, give_back, is_out_of_memory
from lora_train.models.base import Conditioning, Frame, Parts
from lora_train.models.ddpm import NoiseProcess
from lora_train.models.names import UNET, UnetNames, all_layers, target_names
from lora_train.models.phases import at_work, in_tiles
from lora_train.models.prediction import EPSILON
from lora_train.models.text import (
    count_tokens,
    encode_clip,
    join_chunks,
    room_of,
    tokenize_chunks,
    weighed,
    weighted_chunks,
)
from lora_train.records.families import FAMILIES

MASK = "states_mask"
"""Where the states are those of text: captions with fewer chunks than the longest of their batch are padded."""
ENCODE_PIXELS = 8 * 512 * 512
"""Most pixels that the VAE encodes at once: two pictures of 1024 x 1024."""


class LatentDiffusion:
    """See BaseModel. A family sets its names and overrides what it does differently."""

    family: str
    _sgm_names = False
    text_chunks = 1
    """See BaseModel."""
    text_weights = False
    """Whether captions have weights, `(word:1.2)`, which are not read literally."""

    def __init__(self, parts: Parts) -> None:
        self.source: Path = parts.source
        self.notes = parts.notes
        self.unet: Any = parts.unet
        self.vae: Any = nn.Module.to(parts.vae, torch.float32)  # SDXL's returns NaN in fp16, and it is small
        self.text_encoders: list[Any] = parts.text_encoders
        self.tokenizers: list[Any] = parts.tokenizers
        self.padding = parts.padding
        self.scheduler_config = dict(parts.scheduler_config)
        self.process = NoiseProcess.of_config(self.scheduler_config)
        record = FAMILIES[self.family]
        predicts = record.predicting(self.prediction_type)
        self.version, self.architecture = predicts.version, predicts.architecture
        self.implementation, self.guidance = record.implementation, record.guidance
        self.text_prefixes = tuple(side.prefix for side in record.texts)
        self.device = torch.device("cpu")
        self._factor = record.latents.factor
        self.native_resolution = int(self.unet.config.sample_size) * self._factor
        # kohya's UNets shrink sizes as they go down: sides must divide by 8 at each level's stride
        self.size_step = self._factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        for module in (self.unet, self.vae, *self.text_encoders):
            module.requires_grad_(False).eval()

    @property
    def text_encoder(self) -> Any:
        """The first text encoder, under the name that diffusers' pipelines give it."""
        return self.text_encoders[0]

    @property
    def tokenizer(self) -> Any:
        """The first text encoder's tokenizer."""
        return self.tokenizers[0]

    @cached_property
    def vae_hash(self) -> str:
        """SHA-256 of the VAE's weights as loaded, 32 hexadecimal digits."""
        return _weights_hash(self.vae)

    @property
    def prediction_type(self) -> str:
        """ "epsilon" or "v_prediction"."""
        return self.process.prediction_type

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether its noise schedule was rescaled to end in pure noise."""
        return self.process.zero_terminal_snr

    @cached_property
    def _names(self) -> UnetNames:
        return UnetNames(self.unet, self._sgm_names)

    def roots(self) -> dict[str, nn.Module]:
        """The UNet as "lora_unet", and each text encoder by its prefix."""
        return {UNET: self.unet} | dict(zip(self.text_prefixes, self.text_encoders))

    def layers(self) -> dict[str, nn.Module]:
        """All modules of UNet and text encoders, by diffusers' names and, for the UNet, those of other layouts."""
        return all_layers(self.unet, self.text_encoders)

    def module_names(self, convolutions: bool = False, norms: bool = False) -> dict[str, str]:
        """kohya's default targets; see BaseModel for the names."""
        return target_names(self.unet, self._names, self.text_encoders, convolutions, norms)

    def block_of(self, name: str) -> str:
        """ "IN00" ..., "M00", "OUT00" ... by the UNet's module; "BASE" for text encoders and the rest."""
        return self._names.block_of(name)

    def checkpoint_activations(self, share: float = 1.0) -> None:
        """diffusers' own way, not reentrant. Nothing random happens in a block but what the networks drop, which they
        draw from their own generators."""
        self.unet.enable_gradient_checkpointing()
        self.unet.train()  # older versions check the mode, in which a UNet of Stable Diffusion computes the same
        units = [module for module in self._in_order() if hasattr(module, "gradient_checkpointing")]
        for number, unit in enumerate(units):
            unit.gradient_checkpointing = number < math.ceil(share * len(units))
            if hasattr(unit, "_gradient_checkpointing_func"):
                unit._gradient_checkpointing_func = _recomputed

    def _in_order(self) -> list[Any]:
        """The modules of the UNet's blocks as they run."""
        unet = self.unet
        return [module for part in (unet.down_blocks, unet.mid_block, unet.up_blocks) for module in part.modules()]

    def vae_to(self, device: torch.device) -> None:
        """Move the VAE alone, which stays fp32."""
        nn.Module.to(self.vae, device, torch.float32)

    def texts_to(self, device: torch.device) -> None:
        """Move the text encoders alone, in their dtype."""
        for encoder in self.text_encoders:
            nn.Module.to(encoder, device)

    def texts_at_work(self) -> AbstractContextManager[None]:
        """Both text encoders together."""
        return at_work(self.device, self.text_encoders)

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move UNet and text encoders in `dtype`, and the noise schedule; the VAE stays."""
        self.device = device
        for module in (self.unet, *self.text_encoders):
            nn.Module.to(module, device, dtype)  # diffusers' own `to` warns about what it does not do
        self.process.to(device)

    @torch.no_grad()
    def encode_pictures(self, pixels: torch.Tensor, tiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (B, C, h, w), unscaled. At most `ENCODE_PIXELS` at a time: memory grows with the
        pixels."""
        count = max(1, ENCODE_PIXELS // (pixels.shape[-1] * pixels.shape[-2]))
        means, stds, device = [], [], self.vae.device
        with torch.autocast(device.type, enabled=False), in_tiles(self.vae, self._factor, tiled):
            for some in pixels.split(count):
                posterior = self.vae.encode(some.to(device, torch.float32)).latent_dist
                means.append(posterior.mean)
                stds.append(posterior.std)
        return torch.cat(means), torch.cat(stds)

    def scale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """`latents` times the VAE's scaling factor."""
        return latents * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) in [-1, 1], one picture at a time: decoding needs more memory than anything else. In
        tiles where a whole picture does not fit."""
        unscaled = latents.to(self.device, torch.float32) / float(self.vae.config.scaling_factor)
        with torch.autocast(self.device.type, enabled=False), at_work(self.device, [self.vae]):
            try:
                return torch.cat([self.vae.decode(one).sample for one in unscaled.split(1)])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                forget(error)
            give_back()
            with in_tiles(self.vae, self._factor):
                return torch.cat([self.vae.decode(one).sample for one in unscaled.split(1)])

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w): the VAE's channels, and the sides divided by its factor."""
        return int(self.vae.config.latent_channels), height // self._factor, width // self._factor

    def _tokens(self, encoder: int, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None, list[int]]:
        """The chunks of all captions (N, 77), the weights of their tokens, if captions have weights, and how many
        chunks each caption has."""
        tokenizer, pad = self.tokenizers[encoder], self.padding[encoder]
        if self.text_weights:
            tokens, weights, counts = weighted_chunks(tokenizer, captions, pad, self.text_chunks)
            return tokens.to(self.device), weights.to(self.device), counts
        tokens, counts = tokenize_chunks(tokenizer, captions, pad, self.text_chunks)
        return sent(tokens, self.device), None, counts

    def _whole(self, states: torch.Tensor, counts: Sequence[int]) -> Conditioning:
        """A row for each caption; with a mask where their lengths differ, or where this one may be put beside others
        of other lengths."""
        joined, there = join_chunks(states, counts)
        masked = self.text_chunks > 1 and (len(counts) == 1 or len({*counts}) > 1)
        return {"states": joined, MASK: there} if masked else {"states": joined}

    @property
    def text_room(self) -> int:
        """That of the encoder which reads least."""
        return min(map(room_of, self.tokenizers)) * self.text_chunks

    def count_tokens(self, text: str) -> int:
        """By the first tokenizer: CLIP-L and OpenCLIP have one vocabulary."""
        return count_tokens(self.tokenizer, text)

    def encode_text(self, captions: Sequence[str], clip_skip: int = 1) -> Conditioning:
        """{"states": (B, n * 77, D)}, n the chunks of the longest caption, of the layer `clip_skip` counted from the
        last; also {"states_mask": (B, n * 77)} where not all of it is text, or a caption alone may have several
        chunks."""
        tokens, weights, counts = self._tokens(0, captions)
        with self.texts_at_work():
            states = encode_clip(self.text_encoder, tokens, clip_skip)
        return self._whole(states if weights is None else weighed(states, weights), counts)

    def unconditional(self, negatives: Sequence[str], encoded: Conditioning) -> Conditioning:
        """The encoded negative prompts as they are, empty ones too."""
        return encoded

    def extra_inputs(self, frames: Sequence[Frame]) -> Conditioning:
        """None: the UNet gets latents, time and text alone."""
        return {}

    @property
    def training_times(self) -> int:
        """The length of the noise schedule, 1000."""
        return len(self.process.alphas_cumprod)

    def as_times(self, places: torch.Tensor) -> torch.Tensor:
        """Whole numbers, rounded down."""
        return places.long()

    def draw_timesteps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Uniform integers (count,) from 0 up to `training_times`."""
        return sent(torch.randint(0, self.training_times, (count,), generator=generator), self.device)

    def noised(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """sqrt(a_t) x + sqrt(1 - a_t) noise, with the schedule's cumulated alphas a_t (Ho et al. 2020)."""
        return self.process.noised(x, noise, t)

    def target(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The noise, or v = sqrt(a_t) noise - sqrt(1 - a_t) x (Salimans and Ho 2022), by `prediction_type`."""
        return self.process.target(x, noise, t)

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """a_t / (1 - a_t), (B,)."""
        return self.process.snr(t)

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The UNet's output (B, C, h, w), computed in the UNet's dtype."""
        dtype = self.unet.dtype
        states, more = conditioning["states"].to(dtype), {"added_cond_kwargs": self._added(conditioning)}
        if MASK in conditioning and len(states) > 1:  # a single caption is not padded
            more["encoder_attention_mask"] = conditioning[MASK]
        return self.unet(noisy.to(dtype), t, states, **more).sample  # type: ignore[no-any-return]

    def _added(self, conditioning: Conditioning) -> dict[str, torch.Tensor] | None:
        """What the UNet is given besides latents, time and text."""
        return None

    def sampler(self, steps: int) -> Any:
        """DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095) with trailing timesteps."""
        from diffusers import DPMSolverMultistepScheduler

        known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "steps_offset")
        config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        config |= {name: self.scheduler_config[name] for name in known if name in self.scheduler_config}
        config |= {"timestep_spacing": "trailing", "prediction_type": self.prediction_type}
        config |= {"rescale_betas_zero_snr": self.zero_terminal_snr}
        scheduler = DPMSolverMultistepScheduler.from_config(config)
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler

    @classmethod
    def refusals(cls, config: RunConfig, schedule: Mapping[str, Any]) -> list[Problem]:
        """Options of `config` that do not fit a base with this scheduler configuration, each with the reason."""
        found = []
        epsilon = schedule.get("prediction_type", EPSILON) == EPSILON
        if schedule.get("rescale_betas_zero_snr") and epsilon:
            found.append(
                Problem(
                    "pure noise says nothing of the picture, so a base that predicts noise cannot be trained there.",
                    "train.zero_terminal_snr",
                    "Leave it out; it is for bases that predict v.",
                )
            )
        train = config.train
        if train.scale_v_pred_loss_like_noise_pred and epsilon:
            what, where = "this base predicts noise.", "train.scale_v_pred_loss_like_noise_pred"
            found.append(Problem(what, where, "Leave it out; it is for bases that predict v."))
        if train.v_pred_like_loss is not None and not epsilon:
            what = "this base predicts v itself."
            found.append(Problem(what, "train.v_pred_like_loss", "Leave it out; it is for bases that predict noise."))
        return found


def _recomputed(block: Any, *given: Any) -> Any:
    return checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)


def _weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights as loaded, for the latent cache's keys."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
