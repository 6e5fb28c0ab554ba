"""What a client may take: bytes, time and patience of one connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. Times are absolute: a byte of progress buys none.

    (One byte every two seconds kept every Python server measured busy for ever: reliability.md,
    B9 to B11.)
    """

    url_bytes: int = 8_192  # what browsers and CDNs agree on; RFC 9110 4.1 asks for 8000
    head_bytes: int = 32_768  # a browser's full cookie jar for one site fits
    fields: int = 100
    body_bytes: int = 65_536
    # Framing of a chunked body, beyond its content: tiny chunks are fine, long extensions are not.
    chunk_overhead_bytes: int = 65_536
    head_s: float = 10.0  # from a request's first byte; and for a first byte to come at all
    body_s: float = 20.0  # from the end of the head
    write_s: float = 20.0  # for a client to take what it has asked for, once that is much
    keep_alive_s: float = 120.0  # between an answer and the next request
    request_s: float = 5.0  # a request's deadline, from its last byte
    # After a refusal what still comes is read and thrown away for a while: closing at once would
    # reset the connection and could destroy the answer before the client has read it.
    linger_s: float = 2.0
    linger_bytes: int = 1_048_576
    stop_reading_s: float = 1.0  # for a request half read when the server stops, of 3 s in all
    # Input goes to the parser in pieces, so that a flood of tiny requests is seen in time: a piece
    # holds about 120 of them, which may ask for 350 KB of pages.
    piece_bytes: int = 4_096
    waiting_requests: int = 64  # pipelined behind one that is not answered yet
    waiting_bytes: int = 262_144  # of their bodies
