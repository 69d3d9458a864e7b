"""What a single-file checkpoint's UNet predicts, and how that is known: the weights alone do not show it.

Sources: the `v_pred` and `ztsnr` keys of NoobAI's checkpoints, the `parameterization` and `VScaling` of
yaml files, Stability's ModelSpec, the file names of SD 2.x as it was published.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_train.config import RunConfig
from lora_train.records.families import EPSILON, V


@dataclass(frozen=True)
class Assumed:
    """What a person says about a base model whose files say nothing or are wrong."""

    v_parameterization: bool | None = None
    zero_terminal_snr: bool | None = None

    @classmethod
    def by(cls, config: RunConfig) -> Assumed:
        """What a run's configuration says."""
        return cls(config.model.v_parameterization, config.train.zero_terminal_snr)


@dataclass(frozen=True)
class Clues:
    """Everything that may show the prediction type."""

    family: str
    path: Path
    keys: Collection[str]
    """Names of the tensors, or those outside of the model."""
    yaml: Mapping[str, Any]
    """`model.params` of the yaml beside the checkpoint."""
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Prediction:
    """ "epsilon" or "v_prediction", and how it is known."""

    kind: str
    why: str
    certain: bool = True
    zero_terminal_snr: bool = False

    @property
    def note(self) -> str:
        """For the person; empty where there is nothing to report."""
        if self.certain and self.kind == EPSILON:
            return ""
        text = f"The base model {'predicts v' if self.kind == V else 'predicts noise (epsilon)'}: {self.why}"
        text += ", with zero terminal SNR." if self.zero_terminal_snr else "."
        return text if self.certain else text + " If that is wrong, set model.v_parameterization."


def prediction_of(clues: Clues) -> Prediction:
    """What the checkpoint's own clues say; the first that says anything counts."""
    found = next((said for read in _READERS if (said := read(clues)) is not None), None) or _usual(clues)
    return replace(found, zero_terminal_snr=found.kind == V and "ztsnr" in clues.keys)


def _of_key(clues: Clues) -> Prediction | None:
    return Prediction(V, "it has the key v_pred") if "v_pred" in clues.keys else None


def _of_yaml(clues: Clues) -> Prediction | None:
    said = str(clues.yaml.get("parameterization") or "").strip()
    scaling = str(_under(clues.yaml, "denoiser_config", "params", "scaling_config", "target") or "")
    if said == "v" or scaling.rsplit(".", 1)[-1].startswith("VScaling"):
        return Prediction(V, "the yaml beside it says so")
    if said == "eps" or scaling:
        return Prediction(EPSILON, "the yaml beside it says so")
    # SD 2.x' yaml for 512 pixels has no `parameterization`; LDM's code then means eps
    return Prediction(EPSILON, "the yaml beside it says nothing else") if clues.yaml else None


def _of_metadata(clues: Clues) -> Prediction | None:
    # ComfyUI writes predict_key
    said = (clues.metadata.get("modelspec.prediction_type") or clues.metadata.get("modelspec.predict_key", "")).lower()
    if said in ("v", V, "v-prediction"):
        return Prediction(V, "its metadata says so")
    if said in ("epsilon", "eps"):
        return Prediction(EPSILON, "its metadata says so")
    architecture = clues.metadata.get("modelspec.architecture", "").lower()
    if "v2-768-v" in architecture:
        return Prediction(V, "its metadata says so")
    return Prediction(EPSILON, "its metadata says so") if "v2-512" in architecture else None


def _of_name(clues: Clues) -> Prediction | None:
    """SD 2.x was published as `512-base-ema`, `768-v-ema`, `v2-1_512-ema-pruned`, `v2-1_768-ema-pruned`."""
    if clues.family != "sd2":
        return None
    if re.search(r"(?<!\d)512(?!\d)", clues.path.stem):
        return Prediction(EPSILON, "assumed from the 512 in its name", certain=False)
    if re.search(r"(?<!\d)768(?!\d)", clues.path.stem):
        return Prediction(V, "assumed from the 768 in its name", certain=False)
    return None


_READERS = (_of_key, _of_yaml, _of_metadata, _of_name)


def _usual(clues: Clues) -> Prediction:
    if clues.family == "sd2":
        return Prediction(V, "assumed, as most SD 2.x models do and nothing here says otherwise", certain=False)
    return Prediction(EPSILON, "usual for its family")


def settle(config: Mapping[str, Any], assumed: Assumed) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A scheduler configuration with the person's statements applied, and a note on each change."""
    settled, notes = dict(config), []
    if assumed.v_parameterization is not None:
        wanted, word = (V, "v") if assumed.v_parameterization else (EPSILON, "epsilon")
        if wanted != settled.get("prediction_type", EPSILON):
            notes.append(f"The base model is taken to predict {word}, as model.v_parameterization says.")
        settled["prediction_type"] = wanted
        if wanted == EPSILON:
            settled["rescale_betas_zero_snr"] = False  # unless the person sets that too, which is refused
    if assumed.zero_terminal_snr is not None:
        settled["rescale_betas_zero_snr"] = assumed.zero_terminal_snr
    return settled, tuple(notes)


def _under(tree: Any, *path: str) -> Any:
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
