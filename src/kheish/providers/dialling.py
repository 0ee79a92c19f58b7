"""A connection to whichever address of a host answers first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from itertools import zip_longest

_NEXT_ADDRESS_S = 0.25
"""An address that is silent for so long gets company (RFC 8305): IPv6 that leads nowhere must not cost minutes."""

_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]
_Attempt = asyncio.Task[socket.socket]


async def dial(host: str, port: int) -> socket.socket:
    """Return a connected socket that does not block.

    Raises:
        OSError: the name is not known, or none of its addresses can be reached.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await (_connected(found[0]) if len(found) == 1 else _first(_alternating(found)))


def _alternating(found: Sequence[_Address]) -> list[_Address]:
    """The addresses with the families in turn: one that does not work at all costs one attempt."""
    preferred = [address for address in found if address[0] == found[0][0]]
    others = [address for address in found if address[0] != found[0][0]]
    return [address for pair in zip_longest(preferred, others) for address in pair if address is not None]


async def _first(waiting: list[_Address]) -> socket.socket:
    attempts: list[_Attempt] = []
    try:
        while True:
            if waiting:
                attempts.append(asyncio.create_task(_connected(waiting.pop(0)), name="dial"))
            running = [attempt for attempt in attempts if not attempt.done()]
            if not running:
                return attempts[-1].result()  # raises: nothing is left to try
            patience = _NEXT_ADDRESS_S if waiting else None
            await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for attempt in running:
                if attempt.done() and attempt.exception() is None:
                    attempts.remove(attempt)
                    return attempt.result()
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close)


def _close(attempt: _Attempt) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connected(address: _Address) -> socket.socket:
    family, kind, protocol, _, place = address
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, place)
    except BaseException:
        made.close()
        raise
    return made
