"""S19: a provider that answers what no provider should: too much, elsewhere, nonsense, not now.

Whatever comes that is no charge of ours is Unknown, never a guess, and never an exception.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.business.provider import (
    Amount,
    Approved,
    ChargeOrder,
    ChargeOutcome,
    NotSent,
    Pending,
    Unknown,
)
from services.business.providers.sandbox_adapter import ANSWER_MAX_BYTES, open_sandbox
from services.business.shop import Shop
from services.deadline import Deadline

Answer = Callable[[UUID], bytes]
MEGABYTES = 10 * 2**20


@dataclass
class Scripted:
    """A server that answers each request with the next of its answers, the last of them for ever.

    sent_bytes: how much of them it could get rid of.
    """

    answers: list[Answer]
    requests: list[bytes] = field(default_factory=list)
    sent_bytes: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.split(b"\r\n") if b"ontent-" in line]
                size = next((int(x.split(b":")[1]) for x in length if b"ength" in x), 0)
                body = await reader.readexactly(size)
                self.requests.append(head)
                text = json.loads(body)["charge_key"] if body else head.split()[1].decode()[-36:]
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1](UUID(text))
                for start in range(0, len(answer), 65_536):
                    writer.write(answer[start : start + 65_536])
                    await writer.drain()
                    self.sent_bytes += len(answer[start : start + 65_536])
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def scripted(*answers: Answer) -> AsyncIterator[Scripted]:
    script = Scripted(list(answers))
    async with await asyncio.start_server(script.serve, "127.0.0.1", 0) as server:
        script.port = server.sockets[0].getsockname()[1]
        yield script


def answer(status: str, body: bytes, *fields: str) -> Answer:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *fields, "", ""]
    return lambda _: "\r\n".join(lines).encode() + body


def charge(**changed: Any) -> Answer:
    def made(payment_id: UUID) -> bytes:
        values = {
            "charge_id": "ch_1",
            "charge_key": str(payment_id),
            "status": "approved",
            "amount_minor": 1999,
            "currency": "USD",
        }
        body = json.dumps(values | changed).encode()
        return answer("201 Created", body, "content-type: application/json")(payment_id)

    return made


async def asked(
    shop: Shop, script: Scripted, *, within_s: float = 3.0
) -> tuple[ChargeOutcome, ChargeOutcome]:
    """What it answers to a charge, and to the question after one."""
    settings = shop.settings.model_copy(
        update={"provider_url": f"http://127.0.0.1:{script.port}", "provider_timeout_ms": 3000}
    )
    async with open_sandbox(settings) as (provider, _):
        order = ChargeOrder(uuid4(), 1999, "USD", "tok_approve")
        charged = await provider.charge(order, Deadline.after(within_s))
        return charged, await provider.find(order, Deadline.after(within_s))


async def test_what_it_should_answer_is_believed(lab_shop: Shop) -> None:
    async with scripted(charge()) as script:
        assert await asked(lab_shop, script) == (Approved("ch_1"), Approved("ch_1"))


async def test_a_charge_shows_our_credential_and_its_time(lab_shop: Shop) -> None:
    async with scripted(charge()) as script:
        await asked(lab_shop, script, within_s=2.0)
        charged, question = (head.decode().lower() for head in script.requests)
    secret = lab_shop.settings.provider_secret.get_secret_value().lower()
    assert charged.startswith("post /charges http/1.1\r\n")
    assert "content-type: application/json\r\n" in charged
    assert question.startswith("get /charges/")
    for head in (charged, question):
        assert f"authorization: bearer {secret}\r\n" in head
        left_ms = int(head.partition("x-deadline-ms: ")[2].partition("\r\n")[0])
        assert 0 < left_ms <= 2000


BOMB = gzip.compress(b"[" * 10_000_000)
assert len(BOMB) < ANSWER_MAX_BYTES

NONSENSE: dict[str, Answer] = {
    "no JSON": answer("201 Created", b"{"),
    "nothing": answer("201 Created", b""),
    "another shape": answer("201 Created", b"[]"),
    "not UTF-8": answer("201 Created", b"\xff\xfe"),
    "nested": answer("201 Created", b"[" * 16_000),
    "packed": answer("201 Created", BOMB, "content-encoding: gzip"),
    "NaN": charge(amount_minor=float("nan")),
    "a huge amount": charge(amount_minor=10**30),
    "a negative amount": charge(amount_minor=-1),
    "half an amount": charge(amount_minor=19.99),
    "an amount as text": charge(amount_minor="1999"),
    "another charge": charge(charge_key=str(uuid4())),
    "another state": charge(status="refunded"),
    "an id that is too long": charge(charge_id="c" * 300),
    "an id with NUL": charge(charge_id="ch\x00"),
    "a script to go to": charge(
        status="pending", next_action={"type": "redirect", "url": "javascript:alert(1)"}
    ),
    "a line break to go to": charge(
        status="pending", next_action={"type": "redirect", "url": "https://a/\r\nset-cookie: a=b"}
    ),
    "204": lambda _: b"HTTP/1.1 204 No Content\r\n\r\n",
    "no HTTP": lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "404 without the key": answer("404 Not Found", b"{}"),
    "500": answer("500 Internal Server Error", b"[" * 16_000),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_is_no_evidence(name: str, lab_shop: Shop) -> None:
    async with scripted(NONSENSE[name]) as script:
        for outcome in await asked(lab_shop, script):
            assert isinstance(outcome, Unknown)
            assert outcome.seen is None


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_ten_megabytes_are_read_no_further_than_an_answer_is_long(
    chunked: bool, lab_shop: Shop
) -> None:
    plain = answer("201 Created", b" " * MEGABYTES)
    head = b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n"
    in_chunks = head + b"10000\r\n" + b" " * 65_536 + b"\r\n"
    flood: Answer = (lambda _: in_chunks + in_chunks[len(head) :] * 159) if chunked else plain
    async with scripted(flood) as script:
        for outcome in await asked(lab_shop, script):
            assert isinstance(outcome, Unknown)
        # The rest fills what the kernel holds for two connections, and is thrown away there.
        assert script.sent_bytes < 2 * MEGABYTES


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 T", "308 P"])
async def test_a_redirect_is_not_followed(status: str, lab_shop: Shop) -> None:
    """Else an answer would choose whom our credential is shown to."""
    async with scripted(charge()) as elsewhere:
        target = f"location: http://127.0.0.1:{elsewhere.port}/charges"
        async with scripted(answer(status, b"", target)) as script:
            for outcome in await asked(lab_shop, script):
                assert isinstance(outcome, Unknown)
        assert elsewhere.requests == []


async def test_another_amount_is_unknown_and_says_what_was_seen(lab_shop: Shop) -> None:
    async with scripted(charge(amount_minor=1)) as script:
        for outcome in await asked(lab_shop, script):
            assert isinstance(outcome, Unknown)
            assert outcome.seen == Amount(1, "USD")


async def test_a_page_to_go_to_is_passed_on(lab_shop: Shop) -> None:
    url = "https://bank.example/3ds?x=1"
    action = {"type": "redirect", "url": url}
    async with scripted(charge(status="pending", next_action=action)) as script:
        assert (await asked(lab_shop, script))[0] == Pending("ch_1", url)


# Rate limits: nothing was charged, so asking once more is safe


def limited(*fields: str) -> Answer:
    return answer("429 Too Many Requests", b"{}", *fields)


async def test_a_rate_limit_is_asked_once_more_when_it_says(lab_shop: Shop) -> None:
    async with scripted(limited("retry-after: 1"), charge()) as script:
        began_at = time.monotonic()
        charged, _ = await asked(lab_shop, script)
        assert charged == Approved("ch_1")
        assert time.monotonic() - began_at >= 1.0
        assert len(script.requests) == 3  # the charge twice, and the question


async def test_a_rate_limit_is_not_asked_a_third_time(lab_shop: Shop) -> None:
    async with scripted(limited("retry-after: 0")) as script:
        charged, _ = await asked(lab_shop, script)
        assert isinstance(charged, NotSent)
        assert len(script.requests) == 3


@pytest.mark.parametrize(
    "fields",
    [("retry-after: 60",), (), ("retry-after: soon",), ("retry-after: -1",)],
    ids=["too late", "nothing", "nonsense", "the past"],
)
async def test_a_rate_limit_that_ends_after_the_deadline_is_not_waited_for(
    fields: tuple[str, ...], lab_shop: Shop
) -> None:
    async with scripted(limited(*fields)) as script:
        began_at = time.monotonic()
        charged, _ = await asked(lab_shop, script)
        assert isinstance(charged, NotSent)
        assert len(script.requests) == 2
        assert time.monotonic() - began_at < 1.0
