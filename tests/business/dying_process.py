"""A process of business that dies by SIGKILL in the middle of a step: python -m
tests.business.dying_process

Each line on standard input is an Errand as JSON. A fork of its own does it, so that nothing is
imported again; the answer is a line that says how it ended and which points it had come by. The
environment has the settings.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal
from unittest.mock import patch
from uuid import UUID

import orjson
from pydantic import BaseModel

from services.business import expiry, reconcile
from services.business.cancellations import CANCEL_ORDERS
from services.business.followup_claims import FollowUp
from services.business.followups import follow_up
from services.business.orders import place_order
from services.business.payments import pay
from services.business.providers.sandbox_adapter import SandboxAdapter
from services.business.sale_claims import CLAIM_UNITS, NewClaim
from services.business.schemas import OrderRequest
from services.business.shop import Shop, open_shop
from services.business.webhooks import RECEIVE_WEBHOOKS, SANDBOX
from services.data import sources
from services.data.customers import OPERATOR
from services.data.idempotency import Key
from services.data.orders import OrderKey
from services.data.sources import Transaction
from services.data.webhooks import Webhook
from services.settings import BusinessSettings, load
from services.telemetry import configure_logging

Step = Literal[
    "order", "claim", "cancel", "pay", "capture", "void", "refund", "webhook", "expiry", "reconcile"
]
CALLS: Final = ("charge", "find", "capture", "void", "refund", "find_operation")
STATEMENTS: Final = ("fetch", "fetchrow", "fetchval", "execute")
BODY: Final = b"the same"


class Errand(BaseModel):
    """A step, and the point of it at which the process dies; without one it lives.

    subject_id: the variant to order, the flash sale to claim of, the order to cancel or pay, the
    payment to capture, void or refund. key: of the client, or the id of the webhook.
    """

    step: Step
    customer_id: UUID
    subject_id: UUID
    key: str
    payload: str = ""
    die_at: str = ""


async def do(shop: Shop, errand: Errand) -> str:
    """Do the step; returns the state of what it has made, where it makes a payment or operation."""
    match errand.step:
        case "order":
            line = {"variant_id": str(errand.subject_id), "quantity": 2}
            wanted = OrderRequest.model_validate({"lines": [line]})
            await place_order(shop, errand.customer_id, wanted, errand.key, BODY)
        case "claim":
            wanted_units = NewClaim(errand.customer_id, errand.subject_id, 2, errand.key, BODY)
            await shop.join(CLAIM_UNITS, wanted_units)
        case "cancel":
            await shop.join(CANCEL_ORDERS, OrderKey(errand.customer_id, errand.subject_id))
        case "pay":
            order_key = OrderKey(errand.customer_id, errand.subject_id)
            return (await pay(shop, order_key, "tok_approve", errand.key, BODY)).payment.state
        case "capture" | "void" | "refund":
            key = Key(OPERATOR, errand.step, errand.key, BODY)
            wanted_of = FollowUp(errand.subject_id, errand.step, key)
            return (await follow_up(shop, wanted_of)).operation.state
        case "webhook":
            await shop.join(RECEIVE_WEBHOOKS, Webhook(SANDBOX, errand.key, errand.payload.encode()))
        case "expiry":
            await expiry.run_once(shop)
        case "reconcile":
            await reconcile.run_once(shop)
    return ""


@contextmanager
def dying(die_at: str, report: int) -> Iterator[None]:
    """Within it each statement, COMMIT and call of the provider is a point before and after it.

    report: a file descriptor that each point is written to; what was written outlives the process.
    """
    counts: Counter[str] = Counter()

    def come_by(point: str) -> None:
        os.write(report, point.encode() + b"\n")
        if point == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., Awaitable[Any]], kind: str) -> Callable[..., Awaitable[Any]]:
        async def called(*args: Any, **kwargs: Any) -> Any:
            name = kind or args[1]  # commit, or rollback
            counts[name] += 1
            number = counts[name]
            come_by(f"before {name} {number}")
            outcome = await call(*args, **kwargs)
            come_by(f"after {name} {number}")
            return outcome

        return called

    with ExitStack() as patches:
        patches.enter_context(patch.object(sources, "_end", around(sources._end, "")))
        for owner, names, kind in (
            (SandboxAdapter, CALLS, "call"),
            (Transaction, STATEMENTS, "statement"),
        ):
            for name in names:
                call = around(getattr(owner, name), kind)
                patches.enter_context(patch.object(owner, name, call))
        yield


async def live(settings: BusinessSettings, errand: Errand, report: int) -> None:
    """A shop is open for the errand, and closed when all that it has handed over is done."""
    with dying(errand.die_at, report):
        async with open_shop(settings) as shop:
            await do(shop, errand)


def fork(settings: BusinessSettings, errand: Errand) -> dict[str, Any]:
    """How the errand ended (an exit code, or a signal's number below zero) and its points."""
    reading, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(live(settings, errand, report))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(report)
    with os.fdopen(reading) as points:
        passed = points.read().splitlines()
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "points": passed}


def main() -> None:
    settings = load(BusinessSettings)
    configure_logging("dying", settings)  # to standard error: the answers are on the other one
    for line in sys.stdin:
        sys.stdout.write(orjson.dumps(fork(settings, Errand.model_validate_json(line))).decode())
        sys.stdout.write("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
