"""Many small parameters as slices of one large one.

A LoRA has hundreds of small matrices. Element by element an optimizer does the same to each, so it gets one parameter
per group instead, the buffer, and the networks' own parameters are views of it: a step, the gradient's norm and its
clipping are then a few operations in place of thousands. For the same reason all weights are cast to the precision of
the base at once (`Flat.cast`), not at each use.

Only for optimizers that are elementwise, and where all parameters of a group are trained together: dropping whole
modules makes each count its own steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lora_train.networks.base import CAST

LARGE = 1 << 20
"""Groups whose parameters have more elements than this on average stay as they are: the work is in the elements, and
a second copy of the gradient would cost memory."""

State = dict[str, Any]
"""What an optimizer keeps for one parameter, by name."""


class Flat:
    """The groups of an optimizer, of which some become one buffer each.

    `groups` are changed in place; the optimizer is made of them afterwards. Without `elementwise` none is.
    """

    def __init__(self, groups: list[dict[str, Any]], elementwise: bool = True) -> None:
        self._groups = [
            _Slices(group) if elementwise and _small(group["params"]) else _Single(group["params"]) for group in groups
        ]

    @property
    def buffers(self) -> list[_Slices]:
        """The groups that are one buffer."""
        return [group for group in self._groups if isinstance(group, _Slices)]

    @contextmanager
    def cast(self, dtype: torch.dtype) -> Iterator[None]:
        """Within the block the networks find their weights in `dtype`, cast once. At its end the gradients that were
        computed there are added to the buffers'; an exception discards them."""
        groups = [] if dtype == torch.float32 else self.buffers
        for group in groups:
            group.cast(dtype)
        try:
            yield
            for group in groups:
                group.collect_cast()
        finally:
            for group in groups:
                group.forget_cast()

    def collect(self) -> None:
        """Move all gradients into the buffers: before they are measured and used."""
        for group in self.buffers:
            group.collect()

    def forget_gradients(self) -> None:
        """Discard all gradients."""
        for group in self.buffers:
            group.forget_gradients()

    @contextmanager
    def only_with_gradient(self) -> Iterator[None]:
        """Parameters without a gradient do not move within the block, as if they were not part of a buffer."""
        still = [(parameter, parameter.detach().clone()) for group in self.buffers for parameter in group.still()]
        yield
        with torch.no_grad():
            for parameter, value in still:
                parameter.copy_(value)

    def split(self, state: Mapping[int, State]) -> dict[int, State]:
        """An optimizer's state with an entry for each parameter, as it is written to files."""
        found: dict[int, State] = {}
        for group, (index, start) in zip(self._groups, self._places()):
            for number, one in enumerate(group.split(index, state)):
                if one is not None:
                    found[start + number] = one
        return found

    def join(self, state: Mapping[int, State]) -> dict[int, State]:
        """The reverse of `split`. Raises ValueError where parameters of one buffer have counted different steps."""
        found: dict[int, State] = {}
        for group, (index, start) in zip(self._groups, self._places()):
            parts = [state.get(start + number) for number in range(len(group.parameters))]
            for number, one in enumerate(group.join(parts)):
                if one is not None:
                    found[index + number] = one
        return found

    def _places(self) -> Iterator[tuple[int, int]]:
        """The index of each group's first parameter, for the optimizer and without buffers."""
        index = start = 0
        for group in self._groups:
            yield index, start
            index += 1 if isinstance(group, _Slices) else len(group.parameters)
            start += len(group.parameters)


class _Single:
    """A group whose parameters stay as they are."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters

    def split(self, index: int, state: Mapping[int, State]) -> list[State | None]:
        return [state.get(index + number) for number in range(len(self.parameters))]

    def join(self, parts: list[State | None]) -> list[State | None]:
        return parts


class _Slices:
    """A group as slices of one buffer."""

    def __init__(self, group: dict[str, Any]) -> None:
        self.parameters: list[nn.Parameter] = list(group["params"])
        self._sizes = [parameter.numel() for parameter in self.parameters]
        self.buffer = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters]))
        for parameter, value in zip(self.parameters, self._pieces(self.buffer.detach())):
            parameter.data = value
        group["params"] = [self.buffer]
        self._cast: list[torch.Tensor] = []
        self._with_gradient = [False] * len(self.parameters)

    def _pieces(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views of a flat tensor in the parameters' shapes."""
        return [piece.view_as(one) for piece, one in zip(flat.split(self._sizes), self.parameters)]

    def cast(self, dtype: torch.dtype) -> None:
        self._cast = self._pieces(self.buffer.detach().to(dtype))
        for parameter, value in zip(self.parameters, self._cast):
            setattr(parameter, CAST, value.requires_grad_(parameter.requires_grad))

    def forget_cast(self) -> None:
        for parameter in self.parameters:
            if hasattr(parameter, CAST):
                delattr(parameter, CAST)
        self._cast = []

    def collect_cast(self) -> None:
        self._add([value.grad for value in self._cast])

    def collect(self) -> None:
        self._add([parameter.grad for parameter in self.parameters])
        for parameter in self.parameters:
            parameter.grad = None

    def _add(self, gradients: list[torch.Tensor | None]) -> None:
        """Add the parameters' gradients to the buffer's."""
        if all(gradient is None for gradient in gradients):
            return
        self._with_gradient = [was or one is not None for was, one in zip(self._with_gradient, gradients)]
        like = next(gradient for gradient in gradients if gradient is not None)
        parts = [
            like.new_zeros(size) if gradient is None else gradient.reshape(-1)
            for gradient, size in zip(gradients, self._sizes)
        ]
        total = torch.cat(parts)
        if self.buffer.grad is None:
            self.buffer.grad = total.to(self.buffer.dtype)
        else:
            self.buffer.grad.add_(total)

    def forget_gradients(self) -> None:
        self.buffer.grad = None
        self._with_gradient = [False] * len(self.parameters)
        for parameter in self.parameters:
            parameter.grad = None

    def still(self) -> list[nn.Parameter]:
        """The parameters without a gradient, where others of the group have one."""
        if self.buffer.grad is None:
            return []
        return [one for one, found in zip(self.parameters, self._with_gradient) if not found]

    def split(self, index: int, state: Mapping[int, State]) -> list[State | None]:
        if index not in state:
            return [None] * len(self.parameters)
        parts: list[State | None] = [{} for _ in self.parameters]
        for name, value in state[index].items():
            whole = isinstance(value, torch.Tensor) and value.shape == self.buffer.shape
            pieces = self._pieces(value) if whole else [_own(value) for _ in self.parameters]
            for part, piece in zip(parts, pieces):
                assert part is not None
                part[name] = piece
        return parts

    def join(self, parts: list[State | None]) -> list[State | None]:
        present = [part for part in parts if part]
        if not present:
            return [None]
        joined: State = {}
        for name, first in present[0].items():
            if isinstance(first, torch.Tensor) and first.ndim:
                none = [first.new_zeros(size) for size in self._sizes]
                found = [part[name].reshape(-1) if part else zero for part, zero in zip(parts, none)]
                joined[name] = torch.cat(found)
            elif any(part[name] != first for part in present):
                raise ValueError(f"{name} differs among parameters that are trained together")
            else:
                joined[name] = first
        return [joined]


def _own(value: Any) -> Any:
    """The value, a tensor with memory of its own: a file has none twice."""
    return value.clone() if isinstance(value, torch.Tensor) else value


def _small(parameters: list[nn.Parameter]) -> bool:
    """Whether one buffer for these pays, and is possible."""
    kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
    total = sum(parameter.numel() for parameter in parameters)
    return len(parameters) > 1 and len(kinds) == 1 and total <= LARGE * len(parameters)
