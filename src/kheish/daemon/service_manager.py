"""What the daemon tells the service manager that started it, in systemd's protocol: one datagram a message."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import structlog

log = structlog.get_logger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"
_SOCKET = "NOTIFY_SOCKET"
_TIMEOUT_S = 1.0


def tell(environ: Mapping[str, str], message: str) -> None:
    """Send ``message``; nothing happens when no manager listens, and a manager that cannot be reached is logged."""
    address = environ.get(_SOCKET, "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # a name outside the file system
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_TIMEOUT_S)
            sender.sendto(message.encode(), address)
    except OSError as error:
        log.warning("daemon.service_manager_unreachable", message=message, error=error.strerror or str(error))
