"""The one service of this process.

The exception to "no globals": a WebUI runs an extension's scripts again at "Reload UI", while modules
and threads stay. The service, whose thread may be training, must survive that and is kept here.
"""

from __future__ import annotations

from collections.abc import Callable

from lora_train.hosts.base import Host
from lora_train.runs.service import Service

_services: list[Service] = []


def service_of_process(make_host: Callable[[], Host]) -> Service:
    """The service, created with `make_host()` at the first call."""
    if not _services:
        _services.append(Service(make_host()))
    return _services[0]
