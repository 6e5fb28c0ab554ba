"""A network of its own for a server, which can be cut off without either side being told."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest

# 198.18.0.0/15 is for tests between networks (RFC 2544): nobody's real address.
NEAR: Final = "198.18.77.1"
FAR: Final = "198.18.77.2"


class Network:
    """This machine is NEAR, the server is FAR; `prefix` before a command runs it there."""

    host = FAR

    def __init__(self, name: str) -> None:
        self._name = name
        self.prefix = ("ip", "netns", "exec", name)

    def cut(self) -> None:
        """Drop every packet to and from the server, as a cable that is pulled out does."""
        for chain in ("INPUT", "OUTPUT"):
            _run(*self.prefix, "iptables", "-A", chain, "-j", "DROP")

    def mend(self) -> None:
        _run(*self.prefix, "iptables", "-F")


def why_not() -> str:
    """Why there can be none here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root for a network namespace"
    missing = [name for name in ("ip", "iptables") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)}" if missing else ""


@contextmanager
def network() -> Iterator[Network]:
    if reason := why_not():
        pytest.skip(reason)
    name = f"far{secrets.token_hex(4)}"
    near, far = f"{name}n", f"{name}f"  # an interface's name has 15 characters at most
    try:
        _run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made: {error.stderr.decode().strip()}")
    try:
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _run("ip", "addr", "add", f"{NEAR}/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        there = Network(name)
        _run(*there.prefix, "ip", "addr", "add", f"{FAR}/30", "dev", far)
        _run(*there.prefix, "ip", "link", "set", far, "up")
        yield there
    finally:
        # The namespace lives on as long as a process in it, the link with its address need not.
        with suppress(subprocess.CalledProcessError):  # it was never made
            _run("ip", "link", "del", near)
        _run("ip", "netns", "del", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
