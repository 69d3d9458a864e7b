"""The noise process of Stable Diffusion's families (Ho et al. 2020, arXiv 2006.11239).

With a(t) the cumulative product of 1 - beta: x_t = sqrt(a) x + sqrt(1 - a) e, and the prediction is
e ("epsilon") or sqrt(a) e - sqrt(1 - a) x ("v_prediction", Salimans and Ho 2022, arXiv 2202.00512).
"""

from __future__ import annotations

from typing import Any

import torch


class NoiseProcess:
    """a(t) and what follows from it, on one device."""

    def __init__(
        self, alphas_cumprod: torch.Tensor, prediction_type: str = "epsilon", zero_terminal_snr: bool = False
    ) -> None:
        values = alphas_cumprod.float()
        self.alphas_cumprod = with_zero_terminal_snr(values) if zero_terminal_snr else values
        self.prediction_type = prediction_type
        self.zero_terminal_snr = zero_terminal_snr

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> NoiseProcess:
        """From a diffusers scheduler configuration; missing values are Stable Diffusion's."""
        from diffusers import DDPMScheduler

        known = {
            "num_train_timesteps": config.get("num_train_timesteps", 1000),
            "beta_start": config.get("beta_start", 0.00085),
            "beta_end": config.get("beta_end", 0.012),
            "beta_schedule": config.get("beta_schedule", "scaled_linear"),
            "trained_betas": config.get("trained_betas"),
        }
        return cls(
            DDPMScheduler(**known).alphas_cumprod,
            config.get("prediction_type", "epsilon"),
            bool(config.get("rescale_betas_zero_snr", False)),
        )

    def to(self, device: torch.device) -> None:
        """Move the table to `device`."""
        self.alphas_cumprod = self.alphas_cumprod.to(device)

    def _roots(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.alphas_cumprod[t].reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)
        return a.sqrt(), (1 - a).sqrt()

    def noised(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t."""
        signal, rest = self._roots(t, x)
        return signal * x + rest * noise

    def target(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What is predicted."""
        if self.prediction_type == "epsilon":
            return noise
        signal, rest = self._roots(t, x)
        return signal * noise - rest * x

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """a / (1 - a)."""
        a = self.alphas_cumprod[t]
        return a / (1 - a)


def with_zero_terminal_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """a(t) rescaled so that the last value is 0 and the first stays (Lin et al. 2023, arXiv 2305.08891)."""
    roots = alphas_cumprod.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    return ((roots - last) * (first / (first - last))) ** 2
