"""Weights in use and weights in training: some optimizers train others than those that the result has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class InUse:
    """Switches the parameters between both, for an optimizer with `train` and `eval` (schedule-free: Defazio et al.
    2024, arXiv 2405.15682); without effect for others.

    The way back is a copy: computed back, the weights would have other bits than without the switch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._optimizer, self._parameters = optimizer, list(parameters)
        self._kept: list[torch.Tensor] | None = None

    @torch.no_grad()
    def to_train(self) -> None:
        """The weights that the optimizer goes on with; those that are there, where they are not in use (a saved state
        has them)."""
        if hasattr(self._optimizer, "train"):
            kept = self._kept or [parameter.detach().clone() for parameter in self._parameters]
            self._optimizer.train()
            for parameter, value in zip(self._parameters, kept):
                parameter.copy_(value)
            self._kept = None

    @torch.no_grad()
    def to_use(self) -> None:
        """The weights for the result and for previews."""
        if hasattr(self._optimizer, "eval") and self._kept is None:
            self._kept = [parameter.detach().clone() for parameter in self._parameters]
            self._optimizer.eval()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block, those for the result; then those of before."""
        before = self._kept is not None
        self.to_use()
        try:
            yield
        finally:
            if not before:
                self.to_train()

    @contextmanager
    def trained(self) -> Iterator[None]:
        """Within the block, those that the optimizer goes on with; then those of before."""
        before = self._kept is not None
        if before:
            self.to_train()
        try:
            yield
        finally:
            if before:
                self.to_use()
