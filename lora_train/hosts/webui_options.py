"""Our settings on the WebUI's settings page."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from lora_train.hosts.settings import PREFIX, SETTINGS, Setting

SECTION = ("lora_train", "Train LoRA")
CATEGORY = ("lora_train", "LoRA Train")
"""The heading above the section; without one it is under "Uncategorized"."""


def add_options() -> None:
    """Register every setting; doing so again (after "Reload UI") changes nothing."""
    from modules import shared

    with suppress(ImportError, AttributeError):  # older WebUIs have no categories
        from modules.options import categories

        categories.register_category(*CATEGORY)
    for setting in SETTINGS:
        shared.opts.add_option(PREFIX + setting.key, _info(setting))


def _info(setting: Setting) -> object:
    import gradio as gr
    from modules import shared

    component: Any = None
    arguments: dict[str, Any] | None = None
    if setting.choices:
        component, arguments = gr.Radio, {"choices": list(setting.choices)}
    elif setting.highest:
        step = 1 if isinstance(setting.default, int) else 0.5
        component, arguments = gr.Slider, {"minimum": setting.lowest, "maximum": setting.highest, "step": step}
    info = shared.OptionInfo(setting.default, setting.label, component, arguments, section=SECTION)
    info.category_id = CATEGORY[0]
    if setting.settings_only and hasattr(info, "restrict_api"):
        info.restrict_api = True
    if setting.info and hasattr(info, "info"):
        info.info(setting.info)
    if setting.needs_reload and hasattr(info, "needs_reload_ui"):
        info.needs_reload_ui()
    return info
