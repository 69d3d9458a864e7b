"""The host that this process runs in."""

from __future__ import annotations

import importlib.util
import sys

from lora_train.hosts.base import Host


def in_webui() -> bool:
    """Whether this process is a WebUI (its `modules.shared` is loaded)."""
    return "modules.shared" in sys.modules


def detect() -> Host:
    """The host of this process, by the modules it has loaded and can find."""
    if not in_webui():
        from lora_train.hosts.standalone import StandaloneHost

        return StandaloneHost()
    if _has("modules.sd_models_utils") or _has("modules.sd_offload") or _has("modules.lora"):
        from lora_train.hosts.sdnext import SdNextHost

        return SdNextHost()
    if _has("modules_forge") or _has("ldm_patched"):
        from lora_train.hosts.forge import ForgeHost

        return ForgeHost()
    from lora_train.hosts.webui import WebuiHost

    return WebuiHost()


def _has(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
