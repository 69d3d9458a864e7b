"""The optimizer of the base's training, its schedule, and states that are saved while it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024), for matrices and convolutions.

    Measured on this VAE, 220 steps of 8 crops: 15.2 dB on unseen drawings where AdamW had reached 13.2 dB.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; weights keep their shape, the update is orthogonalised over (out, everything else)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                wanted = parameter.grad.lerp(mean, group["momentum"]).reshape(len(parameter), -1)
                update = orthogonal(wanted) * max(1.0, wanted.shape[0] / wanted.shape[1]) ** 0.5
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"])


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest matrix with singular values about 1, by a Newton-Schulz iteration of degree 5."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Optimizers(torch.nn.Module):
    """Muon for the inner weights, AdamW for what faces outwards, norms, biases and embeddings."""

    OUTWARD = ("conv_in", "conv_out", "quant_conv", "embedding")

    def __init__(self, modules: dict[str, torch.nn.Module], muon: float, adam: float) -> None:
        super().__init__()
        inner: list[torch.nn.Parameter] = []
        rest: list[torch.nn.Parameter] = []
        for module in modules.values():
            for name, parameter in module.named_parameters():
                matrix = parameter.ndim >= 2 and not any(word in name for word in self.OUTWARD)
                (inner if matrix else rest).append(parameter)
        self.all = [*inner, *rest]
        self.parts = [Muon(inner, muon), torch.optim.AdamW(rest, adam, betas=(0.9, 0.99), weight_decay=0.0)]
        self.peaks = [muon, adam]

    def step(self, share: float) -> None:
        """Clip, step at `share` of the peak rates, and clear the gradients."""
        torch.nn.utils.clip_grad_norm_(self.all, 1.0)
        for part, peak in zip(self.parts, self.peaks):
            part.param_groups[0]["lr"] = peak * share
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: Any, *_args: Any, **_kwargs: Any) -> Any:
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def cosine(step: int, total: int, warmup: int = 100, floor: float = 0.0) -> float:
    """Share of the peak rate: linear warm-up and a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class Progress:
    """Step count and everything needed to go on with one stage, saved every few minutes."""

    def __init__(self, path: Path, parts: dict[str, Any], every_s: float = 120.0) -> None:
        self.path, self.parts, self.every_s = path, parts, every_s
        self.step, self.saved_at = 0, time.monotonic()
        if path.exists():
            state = torch.load(path, weights_only=True, map_location="cpu")
            self.step = state.pop("step")
            for name, value in state.items():
                parts[name].load_state_dict(value)

    def save(self, force: bool = False) -> None:
        """Write the state if it is time, through a temporary file."""
        if not force and time.monotonic() - self.saved_at < self.every_s:
            return
        part = self.path.with_suffix(".part")
        torch.save({"step": self.step} | {n: p.state_dict() for n, p in self.parts.items()}, part)
        part.replace(self.path)
        self.saved_at = time.monotonic()
