"""SDXL (Podell et al. 2023, arXiv 2307.01952): two text encoders, a pooled text state, and picture sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from lora_train.config import RunConfig
from lora_train.device import sent
from lora_train.errors import Problem
from lora_train.models.base import Conditioning, Frame
from lora_train.models.latent_diffusion import MASK, LatentDiffusion
from lora_train.models.text import encode_penultimate, weighed


class StableDiffusionXL(LatentDiffusion):
    """The SDXL family, also where it predicts v (NoobAI)."""

    family = "sdxl"
    _sgm_names = True

    @property
    def text_encoder_2(self) -> Any:
        """The second text encoder, under the name that diffusers' pipelines give it."""
        return self.text_encoders[1]

    def encode_text(self, captions: Sequence[str], clip_skip: int = 1) -> Conditioning:
        """See BaseModel: {"states": (B, n * 77, D1 + D2), "pooled": (B, P)}, the latter that of the first chunk; and
        the mask as in LatentDiffusion.

        The penultimate layer of both encoders, whatever `clip_skip` says: the UNet was trained with no other.
        """
        tokens, weights, counts = self._tokens(0, captions)
        with self.texts_at_work():
            first, _ = encode_penultimate(self.text_encoders[0], tokens)
            second, pooled = encode_penultimate(self.text_encoders[1], self._tokens(1, captions)[0])
        assert pooled is not None
        if weights is not None:
            first, second = weighed(first, weights), weighed(second, weights)
        starts = torch.tensor([0, *accumulate(counts)][:-1], device=pooled.device)
        return {**self._whole(torch.cat([first, second], dim=-1), counts), "pooled": pooled[starts]}

    def unconditional(self, negatives: Sequence[str], encoded: Conditioning) -> Conditioning:
        """See BaseModel: zeros for an empty prompt, as SDXL was trained and as the WebUI and diffusers do."""
        said = torch.tensor([bool(text) for text in negatives], device=self.device)
        return {
            name: value if name == MASK else value * said.reshape(-1, *[1] * (value.ndim - 1))
            for name, value in encoded.items()
        }

    def extra_inputs(self, frames: Sequence[Frame]) -> Conditioning:
        """See BaseModel: {"time_ids": (B, 6)}, original height and width, top and left of the crop, height and
        width of the result (section 2.2 of the paper). fp32: half precision cannot hold the numbers."""
        rows = [[*f.original[::-1], *f.crop[::-1], *f.target[::-1]] for f in frames]
        return {"time_ids": sent(torch.tensor(rows, dtype=torch.float32), self.device)}

    def _added(self, conditioning: Conditioning) -> dict[str, torch.Tensor]:
        return {"text_embeds": conditioning["pooled"].to(self.unet.dtype), "time_ids": conditioning["time_ids"]}

    @classmethod
    def refusals(cls, config: RunConfig, schedule: Mapping[str, Any]) -> list[Problem]:
        """Those of every Stable Diffusion, and a clip skip beyond the penultimate layer."""
        found = super().refusals(config, schedule)
        if config.model.clip_skip > 2:
            found.append(
                Problem(
                    "SDXL always uses the penultimate layer (clip skip 2) of its text encoders.",
                    "model.clip_skip",
                    "Leave it out.",
                )
            )
        return found
