"""The sandbox's webhooks at a receiver of the test's own: sent again, kept on disk, sent nowhere
else."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.business.webhook_signature import HEADERS, Refused, key_of, verify
from tests.business.test_sandbox import WEBHOOK_SECRET, free_port, order, running
from tests.faults.waiting import until

PATIENT_S = 15.0
KEYS = [key_of(WEBHOOK_SECRET)]


@dataclass
class Receiver:
    """Answers with one status after another, the last of them for ever; what came is kept."""

    statuses: list[str]
    port: int = field(default_factory=free_port)
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/webhooks/sandbox"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", self.port):
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            self.came.append((headers, body))
            status = self.statuses[min(len(self.came), len(self.statuses)) - 1]
            fields = "connection: close\r\ncontent-length: 0"
            writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def has(self, count: int) -> None:
        await until(
            lambda: len(self.came) >= count, within_s=PATIENT_S, what=f"{count} webhooks came"
        )

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.came]


async def test_one_that_is_not_taken_is_sent_again_under_its_id(tmp_path: Path) -> None:
    receiver = Receiver(["500 No", "302 Found\r\nlocation: http://127.0.0.1:1/", "202 Accepted"])
    async with (
        receiver.listening(),
        running(tmp_path / "ledger", receiver.url) as provider,
        provider.client() as client,
    ):
        assert (await client.post("/charges", json=order("again"))).status_code == 201
        await receiver.has(3)
        ids = {
            verify(KEYS, {name: headers[name] for name in HEADERS}, body, time.time())
            for headers, body in receiver.came
        }
        assert len(ids) == 1

        async def is_over() -> bool:
            (item,) = (await client.get("/webhooks?charge_key=again")).json()["items"]
            return bool(item["ended"] and item["attempts"] == 3 and item["status"] == 202)

        await until(is_over, within_s=PATIENT_S, what="it is noted as taken")
        assert len(receiver.came) == 3


async def test_kill_minus_nine_loses_none_and_a_decision_is_told_by_the_next_process(
    tmp_path: Path,
) -> None:
    receiver = Receiver(["204 No Content"])
    async with running(tmp_path / "ledger", receiver.url) as provider:
        async with provider.client() as client:
            await client.put("/behaviour", json={"pending_ms": 1500})
            for n in range(5):
                await client.post("/charges", json=order(f"kept-{n}"))
            await client.post("/charges", json=order("decided", "tok_pending"))
        await provider.end(signal.SIGKILL)
        assert receiver.came == [], "nobody listens"
        async with receiver.listening():
            await provider.start()
            await receiver.has(7)
            told = sorted((e["data"]["charge_key"], e["type"]) for e in receiver.events())
            expected = [(f"kept-{n}", "charge.approved") for n in range(5)]
            expected += [("decided", "charge.approved"), ("decided", "charge.pending")]
            assert told == sorted(expected)


async def test_a_forgery_is_what_must_not_be_believed(tmp_path: Path) -> None:
    receiver = Receiver(["401 No"])
    async with (
        receiver.listening(),
        running(tmp_path / "ledger", receiver.url) as provider,
        provider.client() as client,
    ):
        await client.put("/behaviour", json={"webhooks": "forged"})
        await client.post("/charges", json=order("forged"))
        await receiver.has(4)
        believed = []
        for headers, body in receiver.came[:4]:
            try:
                verify(KEYS, headers, body, time.time())
            except Refused:
                continue
            believed.append(json.loads(body)["type"])
        assert believed == ["charge.approved"]


async def test_captures_and_refunds_are_told_too(tmp_path: Path) -> None:
    receiver = Receiver(["204 No Content"])
    async with (
        receiver.listening(),
        running(tmp_path / "ledger", receiver.url) as provider,
        provider.client() as client,
    ):
        await client.post("/charges", json=order("held", capture=False))
        for path, key in (("captures", "c1"), ("refunds", "r1"), ("captures", "c1")):
            body = {"operation_key": key, "amount_minor": 500}
            answer = await client.post(f"/charges/held/{path}", json=body)
            assert answer.status_code in (200, 201), answer.text
        await receiver.has(3)
        told = [(event["type"], event["data"].get("operation_key")) for event in receiver.events()]
        assert sorted(told, key=str) == [
            ("capture.approved", "c1"),
            ("charge.approved", None),
            ("refund.approved", "r1"),
        ]


async def test_no_request_chooses_where_they_go(tmp_path: Path) -> None:
    async with running(tmp_path / "ledger") as provider, provider.client() as client:
        for name in ("webhook_url", "url", "webhooks_to"):
            to = {name: "http://169.254.169.254/latest/meta-data"}
            assert (await client.put("/behaviour", json=to)).status_code == 422
            assert (await client.post("/charges", json=order("x") | to)).status_code == 422
        assert (await client.post("/charges", json=order("x"))).status_code == 201
        items = (await client.get("/webhooks?charge_key=x")).json()["items"]
        assert items == [], "without an address there is nothing to send"
