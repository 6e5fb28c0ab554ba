"""services/listener.py on real sockets: who has begun to connect is not lost."""

from __future__ import annotations

import socket
import sys
from contextlib import closing

import pytest

from services import listener


def connecting(port: int, timeout_s: float) -> socket.socket:
    client = socket.socket()
    client.settimeout(timeout_s)
    try:
        client.connect(("127.0.0.1", port))
    except OSError:
        client.close()
        raise
    return client


def test_every_address_of_a_host_is_listened_on_at_the_same_port() -> None:
    listeners = listener.listen("localhost", 0, 5)
    try:
        assert len({each.getsockname()[1] for each in listeners}) == 1
        for each in listeners:
            with socket.create_connection(each.getsockname()[:2], timeout=5):
                pass
    finally:
        listener.close(listeners)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "address already in use"),
        ("203.0.113.1", "cannot assign requested address"),  # TEST-NET-3: nobody's
        ("host.invalid", "can not listen on host.invalid"),
    ],
)
def test_what_can_not_be_listened_on_is_said(host: str, reason: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(listener.ListenError, match=reason),
    ):
        listener.listen(host, taken.getsockname()[1], 5)


@pytest.mark.skipif(sys.platform != "linux", reason="only there can the kernel be told")
def test_who_is_in_the_queue_is_served_and_who_comes_later_is_refused_and_never_reset() -> None:
    (listening,) = listener.listen("127.0.0.1", 0, 5)
    port = listening.getsockname()[1]
    with closing(connecting(port, 5)) as waiting:
        waiting.sendall(b"unread")
        listener.hold_back_new([listening])
        with pytest.raises(TimeoutError):
            connecting(port, 0.2)
        listening.setblocking(True)
        accepted, _ = listening.accept()
        listening.close()
        with closing(accepted):
            assert accepted.recv(6) == b"unread"
            waiting.sendall(b"more")
            assert accepted.recv(4) == b"more"
            accepted.sendall(b"answer")
            assert waiting.recv(6) == b"answer"
        with pytest.raises(ConnectionRefusedError):
            connecting(port, 5)
