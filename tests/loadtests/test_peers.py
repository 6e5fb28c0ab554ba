"""Building and starting whom access is compared with."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from loadtests import peers
from loadtests.peers import (
    BARE_PROXY,
    GO,
    NGINX,
    NODE,
    PAGE,
    PYTHON,
    UnavailableError,
    address_of,
    rust,
)
from loadtests.peers.rust import RUST_STD, SEVEN, TOKIO
from loadtests.programs import BrokenRunError, Launch, ask, running


@pytest.mark.parametrize("peer", [NODE, GO, NGINX])
async def test_a_peer_without_its_program_says_so(
    peer: peers.Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=f"{peer.key} is not installed"):
        await peer.launch(tmp_path)


async def test_a_peer_that_can_not_be_built_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "go"
    compiler.write_text("#!/bin/sh\necho 'no module' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "BUILT", tmp_path / "built")
    with pytest.raises(UnavailableError, match="gin could not be built: no module"):
        await peers.GIN.launch(tmp_path)


async def test_without_nginx_and_go_the_fixed_upstream_is_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    name, _ = await peers.fixed_upstream(tmp_path)
    assert name == "Python stand-in"


async def test_the_stand_in_answers_as_business_does(tmp_path: Path) -> None:
    launch = await PYTHON.launch(tmp_path)
    async with running(launch, None, tmp_path / "log") as server:
        status, head, body = await ask(server, "/products/red-shirt")
        assert (status, body) == (200, PAGE)
        assert "s-maxage=3600" in head["cache-control"]
        assert head["cache-tag"]
        assert head["etag"]
        assert int(head["x-internal-position"]) > 0
        _, head, _ = await ask(server, "/products/red-shirt/stock")
        assert head["cache-control"].strip() == "no-store"
        assert (await ask(server, "/nowhere"))[0] == 404
        assert json.loads((await ask(server, "/internal/pages"))[2])["pages"]


def test_the_page_is_as_long_as_was_promised() -> None:
    assert len(PAGE) >= 1024
    assert json.loads(PAGE)["slug"] == "red-shirt"


async def test_a_program_that_does_not_start_is_named_with_what_it_said(tmp_path: Path) -> None:
    launch = Launch(["/bin/sh", "-c", "echo no such luck; exit 3"], 1)
    with pytest.raises(BrokenRunError, match="no such luck"):
        async with running(launch, None, tmp_path / "log"):
            pass


async def test_the_bare_proxy_passes_on_what_it_is_asked_and_what_is_answered(
    tmp_path: Path,
) -> None:
    behind = await PYTHON.launch(tmp_path)
    async with running(behind, None, tmp_path / "behind.log"):
        launch = await BARE_PROXY.launch(tmp_path, address_of(behind))
        async with running(launch, None, tmp_path / "log") as server:
            for _ in range(3):
                status, head, body = await ask(server, "/products/red-shirt/stock")
                assert (status, body) == (200, PAGE)
                assert "no-store" in head["cache-control"]


async def test_without_cargo_a_server_in_rust_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "BUILT", tmp_path / "built")
    with pytest.raises(UnavailableError, match="cargo is not installed"):
        await TOKIO.launch(tmp_path)


async def test_what_was_compiled_is_used_until_its_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cargo = tmp_path / "cargo"
    cargo.write_text(
        '#!/bin/sh\necho built >> "$CARGO_TARGET_DIR/../times"\n'
        'mkdir -p "$CARGO_TARGET_DIR/release"\n'
        'cp Cargo.toml "$CARGO_TARGET_DIR/release/rust_std_peer"\n'
    )
    cargo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    built = tmp_path / "built"
    (built / "cargo").mkdir(parents=True)
    monkeypatch.setattr(peers, "BUILT", built)
    sources = tmp_path / "sources"
    shutil.copytree(peers.PEERS / "rust_std", sources / "rust_std")
    monkeypatch.setattr(rust, "PEERS", sources)
    for _ in range(2):
        await RUST_STD.launch(tmp_path)
    assert (built / "times").read_text() == "built\n"
    manifest = sources / "rust_std" / "Cargo.toml"
    manifest.write_text(manifest.read_text() + "\n")
    assert rust.compiled("rust_std") is None
    await RUST_STD.launch(tmp_path)
    assert (built / "times").read_text() == "built\nbuilt\n"


@pytest.mark.faults
@pytest.mark.parametrize("peer", SEVEN, ids=lambda peer: peer.key)
async def test_each_of_the_seven_answers_both_and_keeps_or_closes_as_it_is_told(
    peer: peers.Peer, tmp_path: Path
) -> None:
    source = {"tokio": "tokio", "hyperlane": "hyperlane", "rocket": "rocket", "rust": "rust_std"}
    if peer.key in source and rust.compiled(source[peer.key]) is None:
        pytest.skip("compiling it takes minutes: `make article` does it")
    page = b'{"page": "%01000d"}' % 1
    try:
        launch = await peer.launch(tmp_path, page=page)
    except UnavailableError as error:
        pytest.skip(str(error))
    async with running(launch, None, tmp_path / "log") as server:
        assert (await ask(server, "/"))[2] == b"Hello World!\n"
        assert (await ask(server, "/page"))[2] == page
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(3):  # HTTP/1.0 as ab has it: kept where it is asked for
            writer.write(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(13) == b"Hello World!\n"
            assert b"keep-alive" in head.lower()  # else ab would make a new one
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(5):
            assert (await reader.read()).endswith(b"Hello World!\n")
        writer.close()
