"""Listening sockets: bound once, shared by processes, closed without losing who waits in them."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Final

# A program for SO_ATTACH_FILTER (linux/filter.h) that drops a segment with SYN and without ACK.
# Of a TCP socket the kernel shows it the segment from its TCP header on; the flags are byte 13.
SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; Python has no name for it
NO_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone: go on, else skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
)


class ListenError(Exception):
    """The address can not be listened on; the message says which and why."""


def listen(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen on each address of a host that this machine has. Port 0: any, the same on each."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ListenError(f"can not listen on {host}: {error}") from None
    listeners: list[socket.socket] = []
    reason = "no such address"
    for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
        place = (address[0], port, *address[2:])
        try:
            listener = _bound(family, place)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a name may stand for several machines, or for a family that is off
            close(listeners)
            raise ListenError(f"can not listen on {place[0]} port {port}: {reason}") from None
        listener.listen(backlog)
        listeners.append(listener)
        port = listener.getsockname()[1]
    if not listeners:
        raise ListenError(f"can not listen on {host} port {port}: {reason}")
    return listeners


def _bound(family: int, place: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
    except OSError:
        listener.close()
        raise
    return listener


def hold_back_new(listeners: Iterable[socket.socket]) -> None:
    """Have the kernel ignore those who begin to connect; who has begun can still be accepted.

    Closing a listening socket resets every connection in its queue, and every request in those.
    From now on the queue only empties, so that it can be closed when all in it are accepted. Who
    is ignored tries again after a second, and is refused then, or served by a successor. Nothing
    is lost that way. Where it can not be done (Linux only), new ones go on coming in.
    """
    if sys.platform != "linux":
        return
    program = array("B", b"".join(struct.pack("=HBBI", *line) for line in NO_SYN))
    argument = struct.pack("@HP", len(NO_SYN), program.buffer_info()[0])
    for listener in listeners:
        try:
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, argument)
        except OSError:  # a kernel without it
            return


def close(listeners: Iterable[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
