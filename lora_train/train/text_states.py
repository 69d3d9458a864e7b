"""Text conditioning by caption, cached while the text encoders do not change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from lora_train.device import sent
from lora_train.models.base import Conditioning

LIMIT_BYTES = 1_000_000_000
"""About 1,500 captions of SDXL in fp32: shuffled captions differ every time, and would fill the memory."""


class TextStates:
    """A cache of the conditioning of captions in CPU memory, limited in bytes: the least recently used goes first."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, captions: Sequence[str], encode: Callable[[str], Conditioning], device: torch.device) -> Conditioning:
        """The conditioning (batch first) of `captions` on `device`; `encode` computes it for one, with a batch of 1."""
        rows = []
        for caption in captions:  # each is taken at once: keeping the next one may drop it
            self.add(caption, encode)
            rows.append(self._kept[caption])
        return {name: sent(_together([row[name] for row in rows]), device) for name in rows[0]}

    def __contains__(self, caption: str) -> bool:
        return caption in self._kept

    def add(self, caption: str, encode: Callable[[str], Conditioning]) -> int:
        """Keep the conditioning of a caption; returns the bytes of it, 0 if it was there."""
        if caption in self._kept:
            self._kept.move_to_end(caption)
            return 0
        states = {name: value.detach().to("cpu") for name, value in encode(caption).items()}
        self._kept[caption] = states
        self._bytes += _size(states)
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return _size(states)


def _together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors (1, ...) as one batch, padded with zeros in their second dimension to the longest caption: a family with
    captions of different lengths has a mask among its tensors."""
    longest = max(part.shape[1] if part.ndim > 1 else 0 for part in parts)
    whole = [
        torch.cat([part, part.new_zeros(1, longest - part.shape[1], *part.shape[2:])], 1)
        if part.ndim > 1 and part.shape[1] < longest
        else part
        for part in parts
    ]
    return torch.cat(whole)


def _size(states: Conditioning) -> int:
    return sum(value.numel() * value.element_size() for value in states.values())
