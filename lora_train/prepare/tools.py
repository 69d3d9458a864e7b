"""What an operation may use besides the picture."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.prepare.base import Plan
from lora_train.prepare.detectors import Detectors


@dataclass
class Tools:
    """One per worker, because detectors are not thread-safe."""

    plan: Plan
    detectors: Detectors
