"""Whom access is compared with: small servers of others, built on demand, skipped where missing.

Each is written as its own documentation has it, with connections kept, in release mode, and with
one core, as access has. What is not installed is skipped with a line that says so.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.local.addresses import LOOPBACK, free_port
from loadtests.programs import Launch

PEERS: Final = Path(__file__).resolve().parent
BUILT: Final = PEERS / ".build"
# Gin with all it needs took 30 s on two cores, Rocket 10 minutes of a busy one.
BUILD_S: Final = 1800
LEAST_URGENT: Final = 19  # nice(2)
PAGE_PATH: Final = "/page"
SAID_CHARACTERS: Final = 300

# What the fixed upstream answers, and the product page that access holds: what a product page of
# the shop looks like, and like those longer than 1 KB.
PAGE: Final = (
    b'{"slug":"red-shirt","title":"Red shirt","category":"shirts","description":"'
    + b"A plain shirt in a warm red, woven from combed cotton that is washed before it is cut. " * 8
    + b'","price":{"amount_minor":1999,"currency":"USD"},"variants":['
    + b",".join(
        b'{"variant_id":"red-shirt-%s","size":"%s","availability":"in stock"}' % (size, size)
        for size in (b"xs", b"s", b"m", b"l", b"xl", b"xxl")
    )
    + b"]}"
)


class UnavailableError(Exception):
    """This peer can not be had on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is to run: port, folder of its own, and what it passes requests on to."""

    port: int
    folder: Path
    upstream: str = ""  # host:port
    page: Path | None = None  # what it answers for PAGE_PATH


@dataclass(frozen=True, slots=True)
class Peer:
    """One of those compared with: its name in results, its name in options, how to start it."""

    name: str
    key: str
    start: Callable[[Place], Awaitable[Launch]]

    async def launch(
        self, folder: Path, upstream: str = "", *, page: bytes | None = None
    ) -> Launch:
        """Build it if need be; UnavailableError where that can not be done.

        page: to be answered for PAGE_PATH, by those of the article's seven.
        """
        own = folder / self.key
        own.mkdir(exist_ok=True)
        file = None if page is None else own / "page.json"
        if file is not None and page is not None:
            file.write_bytes(page)
        return await self.start(Place(free_port(), own, upstream, file))


def program(name: str) -> str:
    """Where a program is, or UnavailableError."""
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(f"{name} is not installed")
    return found


async def build_go(source: str) -> Path:
    """Compile PEERS/source with the toolchain that is there and return the program."""
    go = program("go")
    BUILT.mkdir(exist_ok=True)
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    if not os.environ.get("HOME"):  # go wants to know where its caches are
        environment.setdefault("GOCACHE", str(BUILT / "cache"))
        environment.setdefault("GOPATH", str(BUILT / "path"))
    target = BUILT / source
    command = [go, "build", "-trimpath", "-buildvcs=false", "-modcacherw", "-o", str(target), "."]
    await build(source, command, PEERS / source, environment)
    return target


async def build(
    source: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> None:
    """Run a compiler, yielding the machine to everybody else; UnavailableError where it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=_behind_all_others,
    )
    try:
        async with asyncio.timeout(BUILD_S):
            _, err = await process.communicate()
    except TimeoutError:
        raise UnavailableError(f"{source} was not built within {BUILD_S} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = " ".join(err.decode(errors="replace").split())[-SAID_CHARACTERS:]
        raise UnavailableError(f"{source} could not be built: {said}")


def _behind_all_others() -> None:
    os.nice(LEAST_URGENT)


def go(source: str) -> Callable[[Place], Awaitable[Launch]]:
    """A Go program of this folder, on one core as everybody here."""

    async def start(place: Place) -> Launch:
        environment = {"PORT": str(place.port), "GOMAXPROCS": "1"}
        if place.upstream:
            environment["UPSTREAM"] = f"http://{place.upstream}"
        if source == "fixed_upstream":
            page = place.folder / "page.json"
            page.write_bytes(PAGE)
            environment["PAGE"] = str(page)
        elif place.page is not None:
            environment["PAGE"] = str(place.page)
        return Launch([str(await build_go(source))], place.port, environment)

    return start


def node(source: str) -> Callable[[Place], Awaitable[Launch]]:
    """Node's own server, with a program of this folder."""

    async def start(place: Place) -> Launch:
        environment = {"PORT": str(place.port), "NODE_ENV": "production"}
        if place.page is not None:
            environment["PAGE"] = str(place.page)
        command = [program("node"), str(PEERS / source / "server.mjs")]
        return Launch(command, place.port, environment)

    return start


def nginx(configuration: str) -> Callable[[Place], Awaitable[Launch]]:
    """nginx with a configuration of this folder, in which @WORDS@ are replaced."""

    async def start(place: Place) -> Launch:
        text = (PEERS / "nginx" / configuration).read_text()
        words = {"PORT": str(place.port), "UPSTREAM": place.upstream, "PAGE": PAGE.decode()}
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        (place.folder / "nginx.conf").write_text(text)
        command = [program("nginx"), "-p", str(place.folder), "-c", "nginx.conf"]
        return Launch([*command, "-g", "daemon off;"], place.port)

    return start


async def stand_in(place: Place) -> Launch:
    """The stand-in for business, which is there wherever Python is."""
    command = [sys.executable, "-m", "loadtests.peers.stand_in", str(place.port)]
    return Launch(command, place.port)


async def bare_proxy(place: Place) -> Launch:
    """What a proxy in Python costs at the least."""
    command = [sys.executable, "-m", "loadtests.peers.bare_proxy", str(place.port), place.upstream]
    return Launch(command, place.port)


NODE: Final = Peer("Node std", "node", node("node_std"))
NODE_EVENTS: Final = Peer("Node std", "node-events", node("node_events"))
GO: Final = Peer("Go std", "go", go("go_std"))
GIN: Final = Peer("Gin", "gin", go("gin"))
GO_PROXY: Final = Peer("Go ReverseProxy", "go-proxy", go("go_reverse_proxy"))
NGINX: Final = Peer("nginx proxy_pass", "nginx", nginx("proxy.conf"))
BARE_PROXY: Final = Peer("bare Python proxy", "bare-proxy", bare_proxy)
PYTHON: Final = Peer("Python stand-in", "python", stand_in)
# The quickest first; all sides of a run have the same behind them.
UPSTREAMS: Final = (
    Peer("nginx", "fixed-nginx", nginx("fixed.conf")),
    Peer("Go std", "fixed-go", go("fixed_upstream")),
    Peer("Python stand-in", "fixed-python", stand_in),
)
ALL: Final = (NODE, GO, GIN, GO_PROXY, NGINX, BARE_PROXY, PYTHON)


async def fixed_upstream(folder: Path) -> tuple[str, Launch]:
    """The quickest server for a fixed answer that can be had here, by name."""
    for peer in UPSTREAMS:
        try:
            return peer.name, await peer.launch(folder)
        except UnavailableError:
            continue
    raise AssertionError("Python is always there")


def address_of(launch: Launch) -> str:
    """host:port of what was launched."""
    return f"{LOOPBACK}:{launch.port}"
