"""The sandbox payment provider over real sockets: what it charges, and every way it fails."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.business.providers.sandbox_behaviour import SCRIPTS
from tests.faults.waiting import until

SECRET = "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW"
WEBHOOK_SECRET = SECRET[::-1]
SERVE = (
    "from services.business.providers import sandbox\n"
    "from services.settings import ProviderSettings, load\n"
    "sandbox.serve(load(ProviderSettings))\n"
)
DELAY_MS = 500
PENDING_MS = 300
PATIENT_S = 10.0


@dataclass
class Provider:
    """A provider process that can be killed and started again on the same ledger and port."""

    ledger: Path
    port: int
    webhook_url: str = ""
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = os.environ | {
            "TERCET_PROVIDER_SECRET": SECRET,
            "TERCET_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "TERCET_WEBHOOK_URL": self.webhook_url,
            "TERCET_PROVIDER_PORT": str(self.port),
            "TERCET_PROVIDER_DATA": str(self.ledger),
        }
        environment.pop("TERCET_SECRETS_DIR", None)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVE, env=environment
        )
        await until(self.listens, within_s=PATIENT_S, what="the provider listens")

    async def listens(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, "the provider ended while starting"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENT_S):
            return await self.process.wait()

    def client(self, timeout_s: float = PATIENT_S) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"authorization": f"Bearer {SECRET}"},
            timeout=timeout_s,
            trust_env=False,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(ledger: Path, webhook_url: str = "") -> AsyncIterator[Provider]:
    provider = Provider(ledger, free_port(), webhook_url)
    await provider.start()
    try:
        yield provider
    finally:
        assert provider.process is not None
        if provider.process.returncode is None:
            await provider.end(signal.SIGKILL)


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    async with running(tmp_path_factory.mktemp("provider") / "ledger.sqlite3") as started:
        yield started


@pytest.fixture(scope="module")
async def connected(provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    async with provider.client() as shared:
        yield shared


@pytest.fixture
async def client(connected: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client with the secret; delays are cut short and no brown-out is playing."""
    await behave(connected)
    return connected


async def behave(client: httpx.AsyncClient, **behaviour: Any) -> None:
    delays = {"delay_ms": DELAY_MS, "pending_ms": PENDING_MS}
    answer = await client.put("/behaviour", json=delays | behaviour)
    assert answer.status_code == 200, answer.text


def order(charge_key: str, payment_method: str = "tok_approve", **changed: Any) -> dict[str, Any]:
    body = {
        "charge_key": charge_key,
        "amount_minor": 1999,
        "currency": "USD",
        "payment_method": payment_method,
    }
    return body | changed


async def status_of(client: httpx.AsyncClient, charge_key: str) -> str:
    answer = await client.get(f"/charges/{charge_key}")
    return "never arrived" if answer.status_code == 404 else str(answer.json()["status"])


async def wait_for_status(client: httpx.AsyncClient, charge_key: str, status: str) -> None:
    async def reached() -> bool:
        return await status_of(client, charge_key) == status

    await until(reached, within_s=PATIENT_S, what=f"{charge_key} is {status}")


@asynccontextmanager
async def impatient(provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    async with provider.client(timeout_s=DELAY_MS / 1000 / 2) as connected:
        yield connected


async def test_a_charge_is_approved_and_found_by_our_key(client: httpx.AsyncClient) -> None:
    made = await client.post("/charges", json=order("approve-1"))
    assert made.status_code == 201
    charge = made.json()
    assert charge["charge_key"] == "approve-1"
    assert (charge["status"], charge["amount_minor"], charge["currency"]) == (
        "approved",
        1999,
        "USD",
    )
    assert "decline_code" not in charge
    assert (await client.get("/charges/approve-1")).json() == charge


async def test_the_same_key_returns_the_same_charge(client: httpx.AsyncClient) -> None:
    first = await client.post("/charges", json=order("again-1"))
    second = await client.post("/charges", json=order("again-1"))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()


async def test_fifty_calls_at_once_with_one_key_charge_once(client: httpx.AsyncClient) -> None:
    before = await approved_minor(client)
    answers = await asyncio.gather(
        *(client.post("/charges", json=order("at-once-1")) for _ in range(50))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.json()["charge_id"] for answer in answers}) == 1
    assert await approved_minor(client) - before == 1999


async def approved_minor(client: httpx.AsyncClient) -> int:
    balances = (await client.get("/balance")).json()["balances"]
    return sum(row["amount_minor"] for row in balances if row["status"] == "approved")


@pytest.mark.parametrize(
    "changed",
    [{"amount_minor": 2000}, {"currency": "EUR"}, {"payment_method": "tok_decline"}],
    ids=["amount", "currency", "method"],
)
async def test_the_same_key_for_something_else_is_refused(
    client: httpx.AsyncClient, changed: dict[str, Any]
) -> None:
    charge_key = f"other-{next(iter(changed))}"
    await client.post("/charges", json=order(charge_key))
    refused = await client.post("/charges", json=order(charge_key) | changed)
    assert refused.status_code == 422
    assert refused.json()["type"] == "/problems/idempotency-key-reused"
    assert await status_of(client, charge_key) == "approved"


@pytest.mark.parametrize(
    ("payment_method", "decline_code"),
    [
        ("tok_decline", "card_declined"),
        ("tok_decline_funds", "insufficient_funds"),
        ("tok_decline_expired", "expired_card"),
    ],
)
async def test_a_decline_names_its_reason(
    client: httpx.AsyncClient, payment_method: str, decline_code: str
) -> None:
    charge = (await client.post("/charges", json=order(payment_method, payment_method))).json()
    assert (charge["status"], charge["decline_code"]) == ("declined", decline_code)


async def test_a_slow_charge_is_made_before_the_caller_gives_up(
    provider: Provider, client: httpx.AsyncClient
) -> None:
    async with impatient(provider) as hurried:
        with pytest.raises(httpx.ReadTimeout):
            await hurried.post("/charges", json=order("slow-1", "tok_slow"))
    assert await status_of(client, "slow-1") == "approved"


async def test_a_slow_answer_comes_after_its_delay(client: httpx.AsyncClient) -> None:
    asked_at = time.monotonic()
    answer = await client.post("/charges", json=order("slow-2", "tok_slow"))
    assert answer.status_code == 201
    assert DELAY_MS / 1000 <= time.monotonic() - asked_at < PATIENT_S


@pytest.mark.parametrize(
    ("payment_method", "decided"),
    [("tok_pending", "approved"), ("tok_pending_decline", "declined")],
)
async def test_a_pending_charge_is_decided_later(
    client: httpx.AsyncClient, payment_method: str, decided: str
) -> None:
    made = (await client.post("/charges", json=order(payment_method, payment_method))).json()
    assert made["status"] == "pending"
    assert "decline_code" not in made
    await wait_for_status(client, payment_method, decided)


async def test_a_dropped_answer_hides_a_charge_that_was_made(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/charges", json=order("drop-1", "tok_drop_after_charge"))
    assert await status_of(client, "drop-1") == "approved"
    again = await client.post("/charges", json=order("drop-1", "tok_drop_after_charge"))
    assert again.status_code == 200


async def test_an_error_after_the_charge_hides_it_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/charges", json=order("error-after-1", "tok_error_after_charge"))
    assert answer.status_code == 500
    assert await status_of(client, "error-after-1") == "approved"


async def test_a_call_that_hangs_is_never_charged(
    provider: Provider, client: httpx.AsyncClient
) -> None:
    async with impatient(provider) as hurried:
        with pytest.raises(httpx.ReadTimeout):
            await hurried.post("/charges", json=order("hang-1", "tok_hang"))
    assert await status_of(client, "hang-1") == "never arrived"


async def test_an_error_is_not_charged_however_often_it_is_tried(
    client: httpx.AsyncClient,
) -> None:
    for _ in range(3):
        answer = await client.post("/charges", json=order("error-1", "tok_error"))
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
    assert await status_of(client, "error-1") == "never arrived"


async def test_an_error_the_first_time_is_approved_the_second(client: httpx.AsyncClient) -> None:
    body = order("error-then-1", "tok_error_then_success")
    assert (await client.post("/charges", json=body)).status_code == 500
    assert await status_of(client, "error-then-1") == "never arrived"
    assert (await client.post("/charges", json=body)).status_code == 201
    assert (await client.post("/charges", json=body)).status_code == 200


async def test_a_key_that_never_arrived_is_told_from_a_wrong_address(
    client: httpx.AsyncClient,
) -> None:
    unknown = await client.get("/charges/nobody-sent-this")
    assert (unknown.status_code, unknown.json()["charge_key"]) == (404, "nobody-sent-this")
    wrong = await client.get("/charge/nobody-sent-this")
    assert wrong.status_code == 404
    assert "charge_key" not in wrong.json()


async def test_a_card_number_becomes_a_token_that_behaves_like_the_card(
    client: httpx.AsyncClient,
) -> None:
    made = await client.post("/tokens", json={"card_number": "4000 0000 0000 9995"})
    assert made.status_code == 201
    payment_method = made.json()["payment_method"]
    assert "9995" not in payment_method
    charge = (await client.post("/charges", json=order("card-1", payment_method))).json()
    assert charge["decline_code"] == "insufficient_funds"


async def test_a_card_that_is_no_test_card_is_refused_and_not_repeated(
    client: httpx.AsyncClient,
) -> None:
    refused = await client.post("/tokens", json={"card_number": "4929123412341231"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "/card_number"
    assert "4929" not in refused.text


@pytest.mark.parametrize(
    ("changed", "field_name"),
    [
        ({"amount_minor": 0}, "/amount_minor"),
        ({"amount_minor": -5}, "/amount_minor"),
        ({"amount_minor": 10**13}, "/amount_minor"),
        ({"amount_minor": 1.5}, "/amount_minor"),
        ({"amount_minor": True}, "/amount_minor"),
        ({"currency": "usd"}, "/currency"),
        ({"charge_key": ""}, "/charge_key"),
        ({"charge_key": "line\nbreak"}, "/charge_key"),
        ({"charge_key": "ends\n"}, "/charge_key"),
        ({"payment_method": "tok_unheard_of"}, "/payment_method"),
        ({"card_number": "4242424242424242"}, "/card_number"),
    ],
)
async def test_a_body_that_is_wrong_names_the_field(
    client: httpx.AsyncClient, changed: dict[str, Any], field_name: str
) -> None:
    answer = await client.post("/charges", json=order("wrong-1") | changed)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field_name


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b" " * 20_000, "application/json", 413),
    ],
    ids=["cut short", "not UTF-8", "not JSON by its type", "too large"],
)
async def test_a_body_that_can_not_be_read_is_a_problem(
    client: httpx.AsyncClient, content: bytes, content_type: str, status: int
) -> None:
    answer = await client.post("/charges", content=content, headers={"content-type": content_type})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/charges"),
        ("GET", "/charges"),
        ("GET", "/charges/approve-1"),
        ("GET", "/balance"),
        ("POST", "/tokens"),
        ("PUT", "/behaviour"),
        ("GET", "/behaviour"),
    ],
)
@pytest.mark.parametrize(
    "credential", ["", "Bearer", f"Bearer {SECRET}x", f"Basic {SECRET}", "Bearer é"]
)
async def test_a_caller_without_the_secret_is_refused(
    client: httpx.AsyncClient, method: str, path: str, credential: str
) -> None:
    headers = {b"authorization": credential.encode("latin-1")}
    answer = await client.request(method, path, headers=headers, json=order("no-secret-1"))
    assert answer.status_code == 401
    assert await status_of(client, "no-secret-1") == "never arrived"


async def test_the_list_walks_the_whole_ledger_in_order(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await client.post("/charges", json=order(f"list-{number}"))
    seen: list[str] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = (await client.get("/charges", params={"cursor": cursor, "limit": 2})).json()
        assert len(page["items"]) <= 2
        seen += [charge["charge_key"] for charge in page["items"]]
        cursor = page["next_cursor"]
    assert len(seen) == len(set(seen))
    assert [key for key in seen if key.startswith("list-")] == [f"list-{n}" for n in range(5)]


async def test_the_list_can_start_at_a_time(client: httpx.AsyncClient) -> None:
    early = (await client.post("/charges", json=order("since-early"))).json()
    # The ledger counts milliseconds: the second charge must not share the first one's.
    next_ms = datetime.fromisoformat(early["created_at"]).timestamp() + 0.001
    await until(lambda: time.time() > next_ms, within_s=PATIENT_S, what="the next millisecond")
    late = (await client.post("/charges", json=order("since-late"))).json()
    page = (await client.get("/charges", params={"since": late["created_at"]})).json()
    assert [charge["charge_key"] for charge in page["items"]] == ["since-late"]


@pytest.mark.parametrize(
    "query", ["since=yesterday", "since=2026-01-01T00:00:00", "cursor=-1", "limit=9999", "page=2"]
)
async def test_a_list_parameter_that_is_wrong_is_named(
    client: httpx.AsyncClient, query: str
) -> None:
    answer = await client.get(f"/charges?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == query.partition("=")[0]


async def test_a_brown_out_hits_its_share_and_repeats_with_its_seed(
    client: httpx.AsyncClient,
) -> None:
    async def hit(name: str) -> list[bool]:
        await behave(client, mode="error", share=0.3, seed=7)
        answers = [
            await client.post("/charges", json=order(f"brown-{name}-{number}"))
            for number in range(100)
        ]
        return [answer.status_code == 500 for answer in answers]

    first, second = await hit("a"), await hit("b")
    assert first == second
    assert 15 <= sum(first) <= 45
    await behave(client)
    for number, was_hit in enumerate(first):
        expected = "never arrived" if was_hit else "approved"
        assert await status_of(client, f"brown-a-{number}") == expected


async def test_a_brown_out_ends_by_itself(client: httpx.AsyncClient) -> None:
    await behave(client, mode="refuse", for_s=0.3)
    refused = await client.post("/charges", json=order("refuse-1"))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")

    async def is_over() -> bool:
        return bool((await client.get("/behaviour")).json()["mode"] == "normal")

    await until(is_over, within_s=PATIENT_S, what="the brown-out is over")
    assert (await client.post("/charges", json=order("refuse-1"))).status_code == 201


async def test_a_brown_out_leaves_lookups_alone_unless_it_is_told(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/charges", json=order("lookup-1"))
    await behave(client, mode="error")
    assert (await client.get("/charges/lookup-1")).status_code == 200
    await behave(client, mode="error", lookups=True)
    assert (await client.get("/charges/lookup-1")).status_code == 500


async def test_a_brown_out_that_drops_answers_charges_once(client: httpx.AsyncClient) -> None:
    await behave(client, mode="drop_after_charge")
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/charges", json=order("drop-all-1"))
    await behave(client)
    listed = (await client.get("/charges")).json()["items"]
    assert [charge["charge_key"] for charge in listed].count("drop-all-1") == 1


async def test_an_unknown_mode_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.put("/behaviour", json={"mode": "prompt"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "/mode"


async def test_the_page_documents_every_script_and_loads_nothing(provider: Provider) -> None:
    async with provider.client() as anybody:
        del anybody.headers["authorization"]
        page = await anybody.get("/")
        live = await anybody.get("/live")
    assert (page.status_code, live.status_code) == (200, 200)
    for script in SCRIPTS:
        assert script.token in page.text
        assert script.card_number in page.text.replace(" ", "")
        assert script.happens in page.text
    for reference in ("http://", "https://", "src=", "href=", "<script", "url("):
        assert reference not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_the_documentation_names_every_token() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sandbox-provider.md").read_text()
    for script in SCRIPTS:
        assert f"`{script.token}`" in text
        assert script.card_number in text.replace(" ", "")


async def test_every_card_number_passes_the_luhn_check() -> None:
    for script in SCRIPTS:
        digits = [int(digit) for digit in reversed(script.card_number)]
        doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
        assert (sum(digits[::2]) + sum(doubled)) % 10 == 0, script


async def test_what_was_answered_survives_kill_minus_nine(tmp_path: Path) -> None:
    async with running(tmp_path / "ledger.sqlite3") as provider:
        answered: dict[str, str] = {}

        async def charge(client: httpx.AsyncClient, worker: int) -> None:
            for number in range(10_000):
                key = f"kill-{worker}-{number}"
                answer = await client.post("/charges", json=order(key))
                answered[key] = answer.json()["charge_id"]

        async with provider.client() as client:
            card = (await client.post("/tokens", json={"card_number": "4242424242424242"})).json()
            workers = [asyncio.create_task(charge(client, worker)) for worker in range(8)]
            await until(lambda: len(answered) >= 100, within_s=PATIENT_S, what="100 charges")
            await provider.end(signal.SIGKILL)
            results = await asyncio.gather(*workers, return_exceptions=True)
            assert all(isinstance(result, httpx.TransportError) for result in results)
        await provider.start()
        async with provider.client() as client:
            for key, charge_id in answered.items():
                again = await client.post("/charges", json=order(key))
                assert (again.status_code, again.json()["charge_id"]) == (200, charge_id)
            token = order("token-kept", card["payment_method"])
            assert (await client.post("/charges", json=token)).status_code == 201


@pytest.mark.faults
async def test_a_stop_is_clean_and_quick_while_a_call_hangs(tmp_path: Path) -> None:
    async with running(tmp_path / "ledger.sqlite3") as provider, provider.client() as client:
        hanging = asyncio.create_task(client.post("/charges", json=order("stop-1", "tok_hang")))
        await client.post("/charges", json=order("stop-2"))
        stopped_at = time.monotonic()
        assert await provider.end(signal.SIGTERM) == 0
        assert time.monotonic() - stopped_at < 3
        with pytest.raises(httpx.TransportError):
            await hanging
