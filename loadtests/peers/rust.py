"""The article's servers in Rust. Compiled once: what was compiled is used until its source changes.

Each is a package of its own in this folder, with exact versions. Cargo works on a copy under
.build, so nothing is written beside the sources.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from loadtests import peers
from loadtests.peers import PEERS, Peer, Place, UnavailableError, build, program
from loadtests.programs import Launch


def compiled(source: str) -> Path | None:
    """The program of this source where it was compiled before."""
    target = peers.BUILT / f"{source}_peer"
    mark = _mark(source)
    known = mark.exists() and mark.read_text() == _digest(source)
    return target if known and target.exists() else None


async def build_cargo(source: str) -> Path:
    """Compile PEERS/source in release mode, unless that was done, and return the program."""
    if (done := compiled(source)) is not None:
        return done
    cargo = program("cargo")
    copy = peers.BUILT / "rust" / source
    shutil.rmtree(copy / "src", ignore_errors=True)
    for file in _files(source):
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PEERS / source / file, copy / file)
    target = peers.BUILT / "cargo"
    # One crate at a time: this is done once, and whoever else uses the machine should not notice.
    environment = {"CARGO_BUILD_JOBS": "1", **os.environ, "CARGO_TARGET_DIR": str(target)}
    command = [cargo, "build", "--release", "--quiet"]
    await build(source, command, copy, environment)
    program_file = peers.BUILT / f"{source}_peer"
    shutil.copy2(target / "release" / f"{source}_peer", program_file)
    _mark(source).write_text(_digest(source))
    return program_file


def _mark(source: str) -> Path:
    return peers.BUILT / f"{source}_peer.of"


def _files(source: str) -> list[str]:
    return ["Cargo.toml", "src/main.rs"] if (PEERS / source).is_dir() else []


def _digest(source: str) -> str:
    digest = hashlib.sha256()
    for file in _files(source):
        digest.update((PEERS / source / file).read_bytes())
    return digest.hexdigest()


def _rust(source: str) -> Callable[[Place], Awaitable[Launch]]:
    """On one core as everybody here: its threads are as many as the cores it may use."""

    async def start(place: Place) -> Launch:
        port = str(place.port)
        environment = {"PORT": port, "ROCKET_PORT": port, "ROCKET_ADDRESS": "127.0.0.1"}
        if place.page is not None:
            environment["PAGE"] = str(place.page)
        return Launch([str(await build_cargo(source))], place.port, environment)

    return start


TOKIO: Final = Peer("Tokio", "tokio", _rust("tokio"))
HYPERLANE: Final = Peer("Hyperlane", "hyperlane", _rust("hyperlane"))
ROCKET: Final = Peer("Rocket", "rocket", _rust("rocket"))
RUST_STD: Final = Peer("Rust std", "rust", _rust("rust_std"))
# As the article orders them.
SEVEN: Final = (TOKIO, HYPERLANE, ROCKET, RUST_STD, peers.GIN, peers.GO, peers.NODE)


def version(peer: Peer) -> str:
    """What a peer is made of, as its own manifest says; its toolchain stands elsewhere."""
    source = {TOKIO.key: "tokio", HYPERLANE.key: "hyperlane", ROCKET.key: "rocket"}.get(peer.key)
    if source is not None:
        return _after(PEERS / source / "Cargo.toml", f"{source} = ")
    if peer is peers.GIN:
        return _after(PEERS / "gin" / "go.mod", "github.com/gin-gonic/gin ")
    return ""


def _after(manifest: Path, words: str) -> str:
    for line in manifest.read_text().splitlines():
        if words in line:
            said = line.partition(words)[2]
            return "".join(sign for sign in said.partition(",")[0] if sign.isdigit() or sign == ".")
    raise UnavailableError(f"{manifest} names no version")
