"""A transport that joins the writes of one turn of the loop: uvicorn writes head and body apart.

uvloop hands each write to the kernel at once, so an answer was two calls, and came in two pieces.
"""

from __future__ import annotations

import asyncio


class JoiningTransport(asyncio.Transport):
    """What uvicorn needs of a transport; what is written leaves at the end of the turn.

    Or earlier, with the transport's own end. What is held back for so long is not in
    get_write_buffer_size, and pauses nobody: it is what one turn of the loop can write.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes | bytearray | memoryview] = []
        # Passed through as they are: a call less each.
        self.abort = transport.abort  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.get_write_buffer_size = transport.get_write_buffer_size  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)

    def write_at_once(self, data: bytes) -> None:
        """What is whole by itself, behind all that was written before."""
        self._send()
        self._transport.write(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        pieces = self._pieces
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
        pieces.clear()
