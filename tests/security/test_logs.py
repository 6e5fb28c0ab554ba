"""S23: no secret gets into a log, whatever field it came in; one event stays one line."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from infra.local.addresses import free_port
from infra.local.secret_files import NAMES
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, new_guest, new_key
from tests.security.marked import send_marked
from tests.security.processes import environment_of, process
from tests.security.wire import exchange, request

JSON: Final = "content-type: application/json"
# The logs of our own processes: one JSON object a line. PostgreSQL and Valkey write their own.
OURS: Final = (
    "access",
    "business",
    "provider",
    "worker-outbox",
    "worker-reconcile",
    "worker-expiry",
    "worker-webhooks",
    "worker-live",
)


@dataclass(frozen=True)
class Sent:
    """What must not be written down, what must not break a line, and where the logs are."""

    markers: list[str]
    breaker: str
    talkative: Path
    failed: set[str]  # payments that the provider failed


@pytest.fixture(scope="module")
async def sent(stack: RunningStack, goods: Goods, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """Everything sent twice: to the stack, and to an access and business that log all they can."""
    folder = tmp_path_factory.mktemp("talkative")
    ports = {name: str(free_port()) for name in ("access", "business")}
    environment = environment_of(
        stack,
        TERCET_LOG_LEVEL="DEBUG",
        TERCET_ACCESS_PORT=ports["access"],
        TERCET_BUSINESS_PORT=ports["business"],
        TERCET_BUSINESS_URL=f"http://127.0.0.1:{ports['business']}",
    )
    url = f"http://127.0.0.1:{ports['access']}"
    with ExitStack() as stop:
        for name in ports:
            log = folder / f"{name}.log"
            stop.enter_context(process(name, environment=environment, log=log))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            await until(lambda: is_ready(client), within_s=30, what="access is ready")
        return send_all(stack, url, goods, folder)


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


def send_all(stack: RunningStack, url: str, goods: Goods, folder: Path) -> Sent:
    """A marker in every field that a client has: token, cookie, card, key, header, path, body."""
    made = {name: f"mark{secrets.token_hex(12)}" for name in ("a", "b", "c", "d", "e")}
    breaker = f"split{secrets.token_hex(8)}"
    guest = new_guest(stack, goods)
    card = "4000056655665556"
    bearer = f"authorization: Bearer {made['a']}"
    key = f"idempotency-key: {made['e']}"
    order = json.dumps({"lines": [{"variant_id": goods.variant_id, "quantity": 1}]}).encode()
    for data in (
        request("GET", f"/orders/{guest.order_id}", bearer),
        request("GET", f"/orders/{guest.order_id}", f"cookie: tercet_customer={made['b']}"),
        request("GET", "/operator/upstreams", bearer),
        request("POST", "/orders", JSON, key, bearer, body=order),
        request("POST", "/orders", JSON, key, f"cookie: x={made['b']}", body=order),
        request("POST", f"/orders/{guest.order_id}/payments", JSON, key,
                f"authorization: {guest.authorization}",
                body=json.dumps({"payment_method": card}).encode()),
        request("POST", f"/orders/{guest.order_id}/payments", JSON, key,
                f"authorization: {guest.authorization}",
                body=json.dumps({"payment_method": f"tok_{made['c']}"}).encode()),
        request("POST", "/sessions", JSON, body=json.dumps(
            {"email": f"{made['d']}@example.com", "password": made['c']}).encode()),
        request("POST", "/customers", JSON, body=json.dumps(
            {"email": f"{made['d']}@example.com"}).encode()),
        request("POST", "/customers/confirmations", JSON, body=json.dumps(
            {"token": made['a'], "password": made['b']}).encode()),
        request("GET", "/sessions", f"cookie: tercet_session={made['b']}"),
        request("GET", "/products", f"x-api-key: {made['d']}", f"x-internal-secret: {made['d']}"),
        request("GET", f"/products/x?token={made['d']}"),
        request("GET", f"/products/{breaker}%0d%0a%7b%22level%22:%22{breaker}"),
        request("GET", f"/products?q={breaker}%0d%0ax&category={breaker}%0a&cursor={breaker}%0a"),
        request("GET", "/products", f"user-agent: {breaker}\\r\\n", f"x-request-id: {breaker}%0a"),
        request("POST", "/orders", JSON, key, body=f'{{"{breaker}\\r\\n":1}}'.encode()),
    ):  # fmt: skip
        exchange(stack.url, data)
        exchange(url, data)
    marked = [send_marked(stack, each, goods, new_guest(stack, goods)) for each in (stack.url, url)]
    made |= {value: value for markers in marked for value in markers.values}
    other = new_guest(stack, goods)
    failed = fail_with(url, other) | fail_with(stack.url, guest)
    return Sent([*made.values(), other.token, guest.token, card], breaker, folder, failed)


def fail_with(url: str, guest: Guest) -> set[str]:
    """Payments that the provider fails, by id: what is logged then is of interest."""
    failed = set()
    for token in ("tok_error", "tok_error_after_charge"):
        answer = httpx.post(
            f"{url}/orders/{guest.order_id}/payments",
            headers={"authorization": guest.authorization, "idempotency-key": new_key()},
            json={"payment_method": token},
            trust_env=False,
        )
        if answer.status_code == 202:  # the second is refused while the first is not settled
            failed.add(answer.json()["payment_id"])
    return failed


def lines(
    stack: RunningStack, sent: Sent, names: tuple[str, ...] = ()
) -> Iterator[tuple[Path, str]]:
    for path in sorted([*(stack.data_dir / "log").iterdir(), *sent.talkative.iterdir()]):
        if not names or path.stem in names:
            for line in path.read_text(errors="replace").splitlines():
                yield path, line


def test_nothing_a_client_keeps_secret_is_in_a_log(stack: RunningStack, sent: Sent) -> None:
    for path, line in lines(stack, sent):
        for marker in sent.markers:
            assert marker not in line, f"{path.name}: {line}"


def test_no_token_of_any_guest_is_in_a_log(
    stack: RunningStack, sent: Sent, alice: Guest, bob: Guest
) -> None:
    for path, line in lines(stack, sent):
        assert alice.token not in line and bob.token not in line, path.name


def test_no_secret_of_the_stack_is_in_a_log(stack: RunningStack, sent: Sent) -> None:
    values = {name: stack.secret(name) for name in NAMES}
    for path, line in lines(stack, sent):
        for name, value in values.items():
            assert value not in line, f"{name} in {path.name}"


def test_every_line_of_our_logs_is_one_json_object(stack: RunningStack, sent: Sent) -> None:
    seen = set()
    for path, line in lines(stack, sent, OURS):
        event = json.loads(line)
        assert {"event", "level", "timestamp", "process"} <= event.keys(), line
        assert event["level"] != sent.breaker
        seen.add(path.stem)
    assert seen == set(OURS)


def test_what_went_wrong_is_in_the_log_all_the_same(stack: RunningStack, sent: Sent) -> None:
    events = [json.loads(line) for _, line in lines(stack, sent, ("business",))]
    # Other tests of the same stack ask business itself, where no request has an id.
    unknown = [event for event in events if event.get("payment_id") in sent.failed]
    assert "outcome unknown" in {event["event"] for event in unknown}
    assert all("request_id" in event for event in unknown if event["event"] == "outcome unknown")


def test_the_state_file_and_command_lines_tell_no_secret(stack: RunningStack) -> None:
    written = (stack.data_dir / "state.json").read_text()
    for name in NAMES:
        assert stack.secret(name) not in written, name
