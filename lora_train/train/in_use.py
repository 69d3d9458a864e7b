"""Weights in use and weights in training: with some optimizers the trained weights are not those of the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class InUse:
    """Switches the parameters between both, for an optimizer with `train` and `eval` (schedule-free: Defazio et al.
    2024, arXiv 2405.15682); without effect for others.

    The training weights are restored from a copy: computed back, they would differ in their last bits.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._optimizer, self._parameters = optimizer, list(parameters)
        self._kept: list[torch.Tensor] | None = None

    @torch.no_grad()
    def to_train(self) -> None:
        """Switch to the weights that the optimizer continues with; without a copy the present ones (from a saved
        state)."""
        if hasattr(self._optimizer, "train"):
            kept = self._kept or [parameter.detach().clone() for parameter in self._parameters]
            self._optimizer.train()
            for parameter, value in zip(self._parameters, kept):
                parameter.copy_(value)
            self._kept = None

    @torch.no_grad()
    def to_use(self) -> None:
        """Switch to the weights of the result and of previews."""
        if hasattr(self._optimizer, "eval") and self._kept is None:
            self._kept = [parameter.detach().clone() for parameter in self._parameters]
            self._optimizer.eval()

    @contextmanager
    def used(self) -> Iterator[None]:
        """The result's weights within the block, and the previous ones after it."""
        before = self._kept is not None
        self.to_use()
        try:
            yield
        finally:
            if not before:
                self.to_train()

    @contextmanager
    def trained(self) -> Iterator[None]:
        """The training weights within the block, and the previous ones after it."""
        before = self._kept is not None
        if before:
            self.to_train()
        try:
            yield
        finally:
            if before:
                self.to_use()
