"""YAML, where a reader is installed: plain data only, never an object of a stranger's choice."""

from __future__ import annotations

from typing import Any

from lora_train.errors import LoraTrainError


def read_yaml(text: str, where: str) -> Any:
    """The data in a YAML text. Raises ValueError where it is none, LoraTrainError where no reader is installed."""
    try:
        import yaml
    except ImportError as error:
        raise LoraTrainError(
            "this is YAML, and no reader for it is installed.",
            where,
            "Install it (pip install pyyaml), or write the options as JSON.",
        ) from error

    class Plain(yaml.SafeLoader):
        """Without aliases: a few lines of them can stand for gigabytes."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise ValueError("it has aliases (*name), which are not read; write their values out")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Plain)
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
