"""The factor on the loss that fp16 needs, whose gradients would otherwise be too small for its numbers."""

from __future__ import annotations

from typing import Any

import torch


def restarted(scaler: Any, device: torch.device) -> Any:
    """The same scale, without the memory of what was already unscaled in a step that is repeated."""
    fresh = loss_scaler(device, scaler.is_enabled())
    fresh.load_state_dict(scaler.state_dict())
    return fresh


def loss_scaler(device: torch.device, enabled: bool) -> Any:
    """A loss scaler, which fp16 needs; torch before 2.3 has it for CUDA only."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)
