"""The settings that a person can change on the host's settings page, in one table.

A WebUI shows them on its own page (`on_ui_settings`); without one they have their defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PREFIX = "lora_train_"


@dataclass(frozen=True)
class Setting:
    """One setting. `choices` makes it a choice; otherwise the default's type decides its kind."""

    key: str
    default: Any
    label: str
    info: str = ""
    choices: tuple[str, ...] = ()
    lowest: float = 0
    highest: float = 0
    needs_reload: bool = False
    settings_only: bool = False
    """It can be changed only on the settings page, not over the host's API."""


WAIT, REFUSE = "Wait until the training ends", "Refuse with a message"
KEEP_IN_RAM, FREE_FULLY = "Move it to the computer's memory", "Free it fully, load it again afterwards"
APPLY_AUTO, APPLY_HOST, APPLY_OURS = "The WebUI's Lora extension, or ours where it is off", "Never ours", "Always ours"

SETTINGS: tuple[Setting, ...] = (
    Setting("data_dir", "", "Folder for runs and caches", "empty: lora-train in the WebUI's data folder"),
    Setting("generation", WAIT, "Making pictures while a LoRA trains", choices=(WAIT, REFUSE)),
    Setting("model", FREE_FULLY, "The loaded checkpoint while a LoRA trains", choices=(KEEP_IN_RAM, FREE_FULLY)),
    Setting(
        "apply",
        APPLY_AUTO,
        "Who applies <lora:...> in prompts",
        choices=(APPLY_AUTO, APPLY_HOST, APPLY_OURS),
        needs_reload=True,
    ),
    Setting(
        "preview_every",
        100,
        "Steps between previews",
        "0: only at start and end",
        highest=10_000,
        needs_reload=True,
    ),
    Setting("state_minutes", 2.0, "Minutes between saved states of a training", "0: never", highest=120),
    Setting("cache_gb", 20.0, "Most gigabytes of cached latents", highest=1000, lowest=1),
    Setting("api", True, "Offer the REST API to other programs", "the page's own requests always work"),
    Setting(
        "readable",
        "",
        "More folders that pictures may be read from",
        "one per line or separated by commas; matters where the page can be reached from other machines. LoRAs that "
        "other programs train over the REST API may be written there, too",
    ),
    Setting(
        "programs",
        False,
        "Let the REST API run a program of yours that captions pictures",
        "captioner: command; whoever may use this WebUI then runs any program with its rights. Never where the WebUI "
        "can be reached from other machines (--listen, --share), unless --enable-insecure-extension-access is given",
        settings_only=True,
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}


class Settings:
    """Reads settings from a host's options (an object with attributes), or returns the defaults."""

    def __init__(self, options: Any = None) -> None:
        self._options = options

    def __getitem__(self, key: str) -> Any:
        """The value of a setting. Raises KeyError for one that does not exist."""
        setting = BY_KEY[key]
        value = getattr(self._options, PREFIX + key, setting.default)
        if setting.choices:
            return value if value in setting.choices else setting.default
        try:
            return type(setting.default)(value)
        except (TypeError, ValueError):  # a number field left empty
            return setting.default
