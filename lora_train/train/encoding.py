"""What a training's captions are for the model: encoded at each step, or once where the text encoders do not change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from lora_train.config import RunConfig
from lora_train.models.base import BaseModel, Conditioning
from lora_train.networks.inject import NetworkSet
from lora_train.train.order import Order
from lora_train.train.rows import Rows
from lora_train.train.text_states import LIMIT_BYTES, TextStates

AHEAD_STEPS, AHEAD_BYTES = 2000, LIMIT_BYTES // 2
"""For how many steps captions are encoded at once, at most; and how large the result may become."""


@dataclass
class Texts:
    """Encodes captions for one run; `prefixes` are the roots that have networks."""

    config: RunConfig
    model: BaseModel
    network: NetworkSet
    rows: Rows
    order: Order
    device: torch.device
    autocast: torch.autocast
    prefixes: frozenset[str]
    step: int = 0
    """The step that captions are encoded for."""
    waits: bool = False
    """Whether text encoders that are not trained wait outside the device's memory."""
    _states: TextStates = field(default_factory=TextStates)
    _base_states: TextStates = field(init=False)

    def __post_init__(self) -> None:
        self.waits = self.device.type != "cpu"
        # one cache serves both where no network changes what the text encoders say
        self._base_states = TextStates() if self._have_networks else self._states

    @property
    def _have_networks(self) -> bool:
        return bool({*self.model.text_prefixes} & self.prefixes)

    @property
    def trained(self) -> bool:
        """Whether text encoders are trained in this step."""
        last = self.config.train.stop_text_encoder_training
        return self._have_networks and (last is None or self.step < last)

    def begin(self, step: int) -> None:
        """Before each step: text encoders that are not trained any more are frozen and leave the device, and captions
        are encoded where that is possible ahead."""
        self.step = step
        if self.trained:
            return
        for prefix in self.model.text_prefixes:
            for parameter in self.network.parameters_of(prefix):
                parameter.requires_grad_(False)
        if self.waits:
            self.model.texts_to(torch.device("cpu"))
            self._encode_ahead()

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Text conditioning. That of untrained text encoders, and of the base alone, is kept by caption."""
        if self.trained and self.network.multiplier:
            return self.model.encode_text(captions, self.config.model.clip_skip)
        states = self._states if self.network.multiplier else self._base_states
        with torch.no_grad(), self.network.dropping(None):
            return states.of(captions, self._one, self.device)

    def _one(self, caption: str) -> Conditioning:
        return self.model.encode_text([caption], self.config.model.clip_skip)

    def _encode_ahead(self) -> None:
        """When a step has a caption that was not encoded yet, the text encoders come in once and encode the captions of
        the next steps as well."""
        if all(caption in states for states, _, caption in self._of(self.step)):
            return
        made, last = 0, min(self.config.train.max_train_steps or 0, self.step + AHEAD_STEPS)
        with self.model.texts_at_work(), torch.no_grad(), self.network.dropping(None), self.autocast:
            for step in range(self.step, last):
                for states, multiplier, caption in self._of(step):
                    with self.network.at(multiplier):
                        made += states.add(caption, self._one)
                if made > AHEAD_BYTES:
                    break

    def _of(self, step: int) -> Iterator[tuple[TextStates, float, str]]:
        """The captions that a step needs encoded: where they are kept, and the strength of the network with it."""
        first = step * self.config.train.gradient_accumulation_steps
        for number, items in enumerate(self.order.batches(step)):
            untagged = self.rows.untagged(items, first + number)
            for caption in (*self.rows.captions(items, first + number), *untagged):
                yield self._states, 1.0, caption
            for caption in untagged:
                yield self._base_states, 0.0, caption
