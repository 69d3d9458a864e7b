"""How much memory a step takes, found out from shapes alone: the step itself runs on the meta device.

Counted as on a CUDA GPU (see AsOnGpu), with what the phases of a run leave there: the denoiser, and those text encoders
that are trained. What the kernels need inside, and what CUDA itself takes, is not in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lora_train.config import RunConfig
from lora_train.config.training_methods import OPTIMIZERS
from lora_train.models.base import BaseModel, Conditioning, Frame
from lora_train.models.storing import FULL, store_base
from lora_train.networks.inject import NetworkSet, create_planned, load_networks, targets
from lora_train.networks.plan import plan_of
from lora_train.train.live_bytes import AsOnGpu, LiveBytes
from lora_train.train.network import trained_parts
from lora_train.train.step import Draw, Row, backward

UNKNOWN_STATE = 8.0
"""Bytes of optimizer state for each trained weight where they cannot be measured: AdamW's."""
AUTOCAST = frozenset(("fp16",))
"""The precisions in which the loop computes under autocast."""
META = torch.device("meta")


@dataclass(frozen=True)
class Footprint:
    """Bytes of one step. The peak is in the step or in the optimizer's update."""

    base: int
    """The base's weights on the device."""
    trained: int
    """The networks' weights in fp32."""
    state: int
    """The optimizer's."""
    step: int
    """The highest of activations, temporary values and gradients together, in forward and backward pass."""

    @property
    def peak(self) -> int:
        """The most that is held at a time."""
        update = 2 * self.trained  # the gradients, and once more for the optimizer's temporary values
        return self.base + self.trained + self.state + max(self.step, update)


class Counter:
    """Counts steps of one run on one base model, which may be opened or on the meta device; it is not touched.

    `prefixes` are the roots that are trained.
    """

    def __init__(self, config: RunConfig, model: BaseModel, prefixes: Sequence[str]) -> None:
        self._config, self._prefixes = config, tuple(prefixes)
        half = config.train.mixed_precision in ("bf16", "fp16")  # which take the same memory
        self._dtype = torch.bfloat16 if half else torch.float32
        self._model = _shapes_of(model, self._dtype)
        self._state_bytes = state_bytes(config)
        self._states: Conditioning | None = None

    def count(self, pictures: int, width: int, height: int, share: float = 0.0, base: str = FULL) -> Footprint:
        """The step with so many pictures of that size at once, with this `share` of the blocks checkpointed, and the
        base stored as `base`. Raises what torch raises where this version of it cannot count (2.1)."""
        model = copy.deepcopy(self._model, {id(one): one for one in _constants(self._model)})
        network = self._networks(model)
        store_base(model, base, self._dtype)
        if share:
            model.checkpoint_activations(share)
        network.attach()
        counted = LiveBytes()
        with AsOnGpu():
            step = self._step(model, network, pictures, width, height)
            with counted:
                step()
        trained = sum(one.numel() for one in network.parameters())
        return Footprint(self._bytes_of(model), 4 * trained, round(trained * self._state_bytes), counted.peak)

    def base_bytes(self, base: str) -> int:
        """The weights of the base on the device, stored as `base`."""
        model = copy.deepcopy(self._model, {id(one): one for one in _constants(self._model)})
        store_base(model, base, self._dtype)
        return self._bytes_of(model)

    def _bytes_of(self, model: BaseModel) -> int:
        roots = model.roots().items()
        return sum(_bytes(root) for prefix, root in roots if prefix not in model.text_prefixes or self._in(prefix))

    def _in(self, prefix: str) -> bool:
        return prefix in self._prefixes

    def _networks(self, model: BaseModel) -> NetworkSet:
        """The run's networks; nothing is allocated for new ones."""
        options = self._config.network
        if options.network_weights:
            modules = trained_parts(options, model, self._prefixes)
            network = load_networks(model, modules, self._prefixes, options.network_weights)
        else:
            bases = targets(model, convolutions=True, norms=True)
            plan = plan_of(options, bases, frozenset(model.module_names()), self._prefixes)
            with FakeTensorMode(allow_non_fake_inputs=True):
                network = create_planned(model, plan, torch.Generator())
        for module in network.modules():
            _replace_tensors(module, lambda one: torch.empty(one.shape, dtype=one.dtype, device=META), trains=True)
        return network

    def _step(
        self, model: BaseModel, network: NetworkSet, pictures: int, width: int, height: int
    ) -> Callable[[], object]:
        """A function that runs the step; what it needs is made."""
        captions = [""] * pictures
        text_trained = any(map(self._in, model.text_prefixes))
        if not text_trained and self._states is None:
            with torch.no_grad(), network.at(0.0):
                self._states = model.encode_text(captions[:1], self._config.model.clip_skip)
        states = {n: v.new_empty(pictures, *v.shape[1:]) for n, v in (self._states or {}).items()}

        def encode(given: Sequence[str]) -> Conditioning:
            return model.encode_text(given, self._config.model.clip_skip) if text_trained else states

        x = torch.empty(pictures, *model.latent_shape(width, height), device=META)
        t = model.draw_timesteps(pictures, torch.Generator().manual_seed(0)).to(META)
        draw = Draw(torch.empty_like(x), t, torch.ones(pictures, device=META))
        row = Row(x, captions, extra=model.extra_inputs([Frame.whole(width, height)] * pictures))
        casts = self._config.train.mixed_precision in AUTOCAST
        autocast = torch.autocast("cpu", torch.bfloat16) if casts else nullcontext()
        return lambda: backward(model, network, [row], draw, encode, lambda loss: loss, autocast)


def state_bytes(config: RunConfig) -> float:
    """Bytes of the optimizer's state for each trained weight, measured on one small weight."""
    weight = nn.Parameter(torch.ones(64, 64))
    try:
        optimizer = OPTIMIZERS.of(config)([{"params": [weight], "base_lr": 1e-4, "lr": 1e-4}], config)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    except Exception:  # some need a GPU, or pass a closure
        return UNKNOWN_STATE
    state = optimizer.state[weight]
    return sum(one.numel() * one.element_size() for one in _tensors_in(state.values())) / weight.numel()


def _tensors_in(values: Any) -> Iterator[torch.Tensor]:
    for one in values:
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _tensors_in(one)


def _shapes_of(model: BaseModel, dtype: torch.dtype) -> BaseModel:
    """A copy of the model on the meta device, in `dtype`: nothing of it is allocated."""
    memo: dict[int, Any] = {id(one): one for one in _constants(model)}
    for module in _modules_in(vars(model).values()):
        for one in (*module.parameters(), *module.buffers()):
            empty = torch.empty(one.shape, dtype=one.dtype, device=META)
            memo[id(one)] = nn.Parameter(empty, requires_grad=False) if isinstance(one, nn.Parameter) else empty
    copied = copy.deepcopy(model, memo)
    copied.to(META, dtype)
    return copied


def _constants(model: BaseModel) -> list[Any]:
    """What is shared with a copy."""
    return list(getattr(model, "tokenizers", ()))


def _modules_in(values: Any) -> Iterator[nn.Module]:
    for one in values:
        if isinstance(one, nn.Module):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _modules_in(one)
        elif isinstance(one, dict):
            yield from _modules_in(one.values())


def _replace_tensors(module: nn.Module, by: Callable[[torch.Tensor], torch.Tensor], trains: bool) -> None:
    """Replace a module's own parameters and buffers."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(by(parameter), requires_grad=trains)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = by(buffer)


def _bytes(module: nn.Module) -> int:
    """The bytes of a module's weights, each once."""
    return sum(one.numel() * one.element_size() for one in {*module.parameters(), *module.buffers()})
