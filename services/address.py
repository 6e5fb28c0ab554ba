"""One server as an address: how to connect to it, and what has come of it."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from services.connection import Connection
from services.exchange import ConnectFailed, ConnectTimedOut
from services.request import host_line

KEEP_ALIVE_PROBES: Final = 2


class Address:
    """A host and a port; of a host with several addresses, any.

    unacked_s: a connection ends when the server's system has not confirmed what was sent, or a
    probe of an idle one, for so long (where the platform has TCP_USER_TIMEOUT).
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        ip: str | None = None,
        unacked_s: float | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.name = _authority(ip or host, port)
        self.host_line = host_line(_authority(host, port, 80 if tls is None else 443).encode())
        self.answered_total = 0
        self.failures = 0  # in a row
        self.ip = ip or host
        self.tls = tls
        self._unacked_s = unacked_s

    async def connect(self, make: Callable[[], Connection], within_s: float) -> Connection:
        """A new connection, or NotSent."""
        try:
            async with asyncio.timeout(None if within_s == math.inf else within_s):
                return await self._connect_to_any(make)
        except TimeoutError:
            raise ConnectTimedOut(f"no connection within {within_s:.3f} s") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that can not be one
            raise ConnectFailed(str(error)) from error

    async def _connect_to_any(self, make: Callable[[], Connection]) -> Connection:
        """Connect to one of the host's addresses, each as likely to be the first to be tried.

        The resolver sorts them (RFC 6724): its first would be the same instance every time.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.ip, self.port, type=socket.SOCK_STREAM)
        addresses = [address[:2] for *_, address in found]
        random.shuffle(addresses)
        while True:
            try:
                transport, connection = await loop.create_connection(
                    make,
                    *addresses.pop(),
                    ssl=self.tls,
                    server_hostname=None if self.tls is None else self.host,
                )
            except OSError:
                if not addresses:
                    raise
            else:
                if self._unacked_s is not None:
                    _limit_silence(transport.get_extra_info("socket"), self._unacked_s)
                return connection


def origin(url: str) -> tuple[str, int, ssl.SSLContext | None]:
    """Host, port and TLS of an http or https URL; https trusts what the system trusts."""
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    return parts.hostname or "", parts.port or (80 if tls is None else 443), tls


def _authority(host: str, port: int, default_port: int | None = None) -> str:
    """host[:port] as a Host header has it: IPv6 in brackets, the scheme's own port left out."""
    name = f"[{host}]" if ":" in host else host
    return name if port == default_port else f"{name}:{port}"


def _limit_silence(sock: socket.socket, unacked_s: float) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unacked_s * 1000))
    # Probes count in whole seconds. The time above ends a connection that leaves one unanswered.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(unacked_s)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES)
