"""Weights w(t) of pictures by timestep; see `config.training_methods.WEIGHTINGS` for the signature."""

from __future__ import annotations

import torch

from lora_train.config import RunConfig
from lora_train.config.training_methods import WEIGHTINGS
from lora_train.models.base import BaseModel

LARGEST_SNR = 1000.0
"""At the first timestep the SNR is nearly infinite; sd-scripts' bound."""


def weight_at(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """w(t), (B,): the product of the run's weightings; 1 without any."""
    weight = torch.ones(len(t), device=t.device)
    for weighting in WEIGHTINGS.active(config):
        weight = weight * weighting(t, model, config)
    return weight


def min_snr(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v (Hang et al. 2023, arXiv 2303.09556)."""
    assert config.train.min_snr_gamma is not None
    snr = model.snr(t)
    capped = snr.clamp(max=config.train.min_snr_gamma)
    return capped / (snr + 1) if model.prediction_type == "v_prediction" else capped / snr.clamp(min=1e-12)


def debiased_estimation(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """1 / sqrt(SNR) for epsilon (Yu et al. 2023, arXiv 2310.08442), 1 / (SNR + 1) for v (sd-scripts)."""
    snr = model.snr(t).clamp(max=LARGEST_SNR)
    return 1 / (snr + 1) if model.prediction_type == "v_prediction" else snr.clamp(min=1e-12) ** -0.5


def p2(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """1 / (1 + SNR)^gamma on the noise-prediction loss (Choi et al. 2022, arXiv 2204.00227, k = 1).

    With v-prediction that is multiplied by SNR / (SNR + 1).
    """
    assert config.train.p2_gamma is not None
    snr = model.snr(t)
    weight = (1 + snr) ** -config.train.p2_gamma
    return weight * snr / (snr + 1) if model.prediction_type == "v_prediction" else weight


def scale_v_pred(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """SNR / (SNR + 1): the loss of v is (SNR + 1) / SNR times that of the noise (sd-scripts)."""
    snr = model.snr(t).clamp(max=LARGEST_SNR)
    return snr / (snr + 1)


def v_pred_like(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """1 + k (SNR + 1) / SNR: the loss, plus k times the loss of v-prediction (sd-scripts)."""
    assert config.train.v_pred_like_loss is not None
    return 1 + config.train.v_pred_like_loss / scale_v_pred(t, model, config)
