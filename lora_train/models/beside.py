"""The yaml of the same name beside a single-file checkpoint, as the WebUI reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_train.errors import LoraTrainError

_REPAIR = "Repair or remove it."


@dataclass(frozen=True)
class Beside:
    """What the yaml beside a checkpoint says; all empty without one."""

    params: Mapping[str, Any] = field(default_factory=dict)
    """`model.params`."""
    file: Path | None = None
    note: str = ""
    """A note for the person, where the file exists but says nothing about the model."""

    def part(self, name: str) -> Mapping[str, Any]:
        """A group of `params`, empty where there is none."""
        return _table(self.params.get(name))

    @property
    def unet(self) -> Mapping[str, Any]:
        """The UNet's section, in LDM's yaml or in `sgm`'s."""
        return _table((self.part("unet_config") or self.part("network_config")).get("params"))

    @property
    def text(self) -> str:
        """Where the text encoder's folder is, or its id on the hub."""
        named = _table(self.part("cond_stage_config").get("params")).get("version")
        return named.strip() if isinstance(named, str) else ""

    @property
    def sample_size(self) -> int:
        """Side of the latents; 0 where the file does not say. Stability's yaml of SD 2.x for 768 pixels says 64 too,
        which LDM's code never reads, so 64 means nothing."""
        said = self.number("image_size", 64)
        return 0 if said == 64 else int(said)

    def number(self, name: str, default: float) -> float:
        """A number of `params`; strings are converted, because YAML reads 1e-4 as one. Raises LoraTrainError."""
        value: Any = self.params.get(name)
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        if value is None:
            return default
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise LoraTrainError(f"{name} is not a number: {str(value)[:80]!r}.", str(self.file), _REPAIR) from error


def read_beside(path: Path) -> Beside:
    """The yaml beside the checkpoint at `path`. Raises LoraTrainError when it cannot be read."""
    file = path.with_suffix(".yaml")
    if not file.is_file():
        return Beside()
    import yaml

    try:
        content = yaml.safe_load(_text(file.read_bytes()))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise LoraTrainError("the file beside the checkpoint is not valid YAML.", str(file), _REPAIR) from error
    model = _table(content).get("model")
    params = _table(model).get("params")
    if not isinstance(params, Mapping):
        return Beside(file=file, note=f"{file.name} beside the checkpoint does not describe a model and is not used.")
    return Beside(params, file)


def _text(content: bytes) -> str:
    """As editors save it: UTF-8 or UTF-16, with or without a byte order mark. Raises ValueError."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
