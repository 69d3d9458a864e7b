"""The WebUI that a command uses, or none."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from lora_train.hosts.base import Host


def add_server(parser: Any) -> None:
    """Add the options for a WebUI over HTTP."""
    server = parser.add_argument_group("a running WebUI, started with --api")
    server.add_argument("--server", default="", metavar="URL", help="its address; its checkpoint is unloaded meanwhile")
    server.add_argument("--user", default="", help="of its --api-auth")
    server.add_argument("--password", default="", help="of its --api-auth")


def host_of(options: argparse.Namespace) -> Host:
    """The WebUI named with --server, or none."""
    from lora_train.hosts.standalone import StandaloneHost

    if not options.server or options.offline:
        if options.shutdown:
            raise LoraTrainError("there is no WebUI to stop.", "--shutdown", "Name it with --server URL.")
        return StandaloneHost(offline=options.offline)
    from lora_train.hosts.remote import RemoteHost

    return RemoteHost(options.server, options.user, options.password)
