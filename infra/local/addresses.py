"""Loopback addresses of the parts, and what is asked of them to see whether they are ready."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from typing import Any, Final

LOOPBACK: Final = "127.0.0.1"
# Who listens on every address is reached through this machine's own. Nothing is bound to these.
EVERY_ADDRESS: Final = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104  # nosec B104


def listen_once(host: str, port: int) -> int:
    """Take a port (0: any) for a moment and return it, or raise the OSError that tells why not."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if port:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        listen_once(host, port)
    except OSError:
        return False
    return True


def free_port(preferred: int = 0, host: str = LOOPBACK) -> int:
    """The preferred port (that of the last run) where it is free, else one that is."""
    if preferred and is_free(host, preferred):
        return preferred
    return listen_once(host, 0)


async def get(
    host: str, port: int, path: str, timeout_s: float = 1.0, *, tls: bool = False
) -> tuple[int, bytes]:
    """GET over a connection of its own: status and body. Enough for a part on this machine.

    tls: whose certificate it is does not matter here; it names the shop, not this machine.
    """
    async with asyncio.timeout(timeout_s):
        context = _any_certificate() if tls else None
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            request = f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n"
            writer.write(request.encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), body
        finally:
            writer.close()


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def get_json(
    host: str, port: int, path: str, timeout_s: float = 5.0, *, tls: bool = False
) -> Any:
    """GET a JSON document, or raise ConnectionError for any status but 200."""
    status, body = await get(host, port, path, timeout_s, tls=tls)
    if status != 200:
        raise ConnectionError(f"{path} answered {status}")
    return json.loads(body)
