"""Why a stack is not started: a folder of somebody else's, a port or host that can not be had."""

from __future__ import annotations

import errno
import socket
from typing import Final

from infra.local.addresses import listen_once
from infra.local.folder import DataFolder
from infra.local.stack import StackOptions

EXIT_PORT_TAKEN: Final = 4


class RefusedError(Exception):
    """The stack is not started; the message says why and what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def require_own(folder: DataFolder) -> None:
    """Root can write anywhere, and would lock the owner of the folder out of it."""
    owner = folder.other_owner()
    if owner is not None:
        raise RefusedError(
            f"the data folder {folder.root} belongs to {owner}: run this as {owner}, "
            "or choose another folder with --data-dir",
            1,
        )


def free_port_of(options: StackOptions, folder: DataFolder) -> int:
    """The port to listen on, which is free; RefusedError in words where there is none."""
    host, port = options.host, options.port
    try:
        return listen_once(host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise RefusedError(f"--host {host}: there is no host of this name", 1) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise RefusedError(f"--host {host}: is not an address of this machine", 1) from None
        other = f"another port: {folder.command('up --port 8090')}"
        if error.errno == errno.EADDRINUSE:
            raise RefusedError(
                f"port {port} of {host} is taken by another program: end it, or choose {other}",
                EXIT_PORT_TAKEN,
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise RefusedError(
                f"this user may not listen on port {port}: choose {other}", 1
            ) from None
        raise RefusedError(f"{host}:{port} can not be listened on: {error.strerror}", 1) from None
