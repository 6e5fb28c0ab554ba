"""Mails: sent by SMTP at least once, tried again, given up; and nothing in them ends a field."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from aiosmtpd.smtp import SMTP, Envelope, Session
from pydantic import SecretStr

from infra.mailbox import PAGE_HEADERS, Mailbox, make_app
from services.business import mailing
from services.business.mailing import message_of
from services.business.shop import Shop, open_shop
from services.data.mails import ClaimedMail, Mail, claim_mails, insert_mail
from services.settings import MailboxSettings
from tests.accounts import Person, new_email
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase, migrated_database
from tests.running_stack import RunningStack
from tests.shopping import Books, asgi_client, http_client, open_books


@dataclass
class Server:
    """A real SMTP server that says what it is told to. refuses: what it answers to DATA."""

    port: int = 0
    refuses: str = ""
    mailbox: Mailbox = field(default_factory=Mailbox)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refuses:
            return self.refuses
        return await self.mailbox.handle_DATA(server, session, envelope)

    def taken_by(self, recipient: str) -> int:
        return sum(mail.recipients == [recipient] for mail in self.mailbox.mails)


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[Server]:
    found = Server()
    listening = await asyncio.get_running_loop().create_server(
        lambda: SMTP(found, hostname="test"), "127.0.0.1", 0
    )
    found.port = listening.sockets[0].getsockname()[1]
    yield found
    listening.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mail_database(stack: RunningStack) -> AsyncIterator[OwnDatabase]:
    """Where no other test has mails waiting."""
    async with migrated_database(stack) as database:
        yield database


@pytest_asyncio.fixture(loop_scope="session")
async def mail_books(mail_database: OwnDatabase) -> AsyncIterator[Books]:
    async with open_books(mail_database.superuser_dsn(), relayed=False) as books:
        await books.rows("delete from mails")
        yield books


@pytest_asyncio.fixture(loop_scope="session")
async def mail_shop(mail_database: OwnDatabase, server: Server) -> AsyncIterator[Shop]:
    url = SecretStr(f"smtp://127.0.0.1:{server.port}")
    async with open_shop(mail_database.settings(smtp_url=url)) as shop:
        yield shop


async def put(shop: Shop, recipient: str) -> None:
    async with shop.database.primary.transaction() as tx:
        await insert_mail(tx, Mail(recipient, "A subject", "A body.\n"))


async def all_is_due(books: Books) -> None:
    await books.rows("update mails set next_attempt_at = now()")


async def test_what_waits_is_sent_once_and_deleted(
    mail_shop: Shop, mail_books: Books, server: Server
) -> None:
    to = [new_email() for _ in range(5)]
    for recipient in to:
        await put(mail_shop, recipient)
    # Two workers at once, each on what the other does not have.
    counts = await asyncio.gather(*(mailing.run_once(mail_shop) for _ in range(2)))
    assert sum(counts) == 5
    assert [server.taken_by(recipient) for recipient in to] == [1] * 5
    assert await mail_books.value("select count(*) from mails") == 0
    (mail, *_) = server.mailbox.mails
    assert (mail.subject, mail.body, mail.sender) == ("A subject", "A body.\n", "shop@localhost")


async def test_what_is_refused_for_now_is_tried_again_later_and_later(
    mail_shop: Shop, mail_books: Books, server: Server
) -> None:
    server.refuses = "451 not now"
    recipient = new_email()
    await put(mail_shop, recipient)
    waits = []
    for _ in range(3):
        assert await mailing.run_once(mail_shop) == 1
        assert await mailing.run_once(mail_shop) == 0  # not due
        waits.append(await mail_books.value("select next_attempt_at - now() from mails"))
        await all_is_due(mail_books)
    assert [round(wait / timedelta(seconds=10)) for wait in waits] == [1, 2, 4]
    server.refuses = ""
    assert await mailing.run_once(mail_shop) == 1
    assert server.taken_by(recipient) == 1


@pytest.mark.parametrize("after", ["550 no such user", "too many tries"])
async def test_what_can_not_be_sent_is_given_up_and_says_no_more_what_it_said(
    after: str, mail_shop: Shop, mail_books: Books, server: Server
) -> None:
    server.refuses = after if after.startswith("550") else "451 not now"
    await put(mail_shop, new_email())
    rounds = 0
    while not await mail_books.value("select count(*) from mails where state = 'dead'"):
        rounds += 1
        await all_is_due(mail_books)
        await mailing.run_once(mail_shop)
    assert rounds == (1 if after.startswith("550") else mailing.ATTEMPTS)
    (mail,) = await mail_books.rows("select * from mails")
    assert (mail["body"], mail["detail"] != "") == ("", True)
    assert mail_shop.counts.mails_waiting == (0, 1)
    await all_is_due(mail_books)
    assert await mailing.run_once(mail_shop) == 0


async def test_a_server_that_is_away_loses_no_mail(
    mail_shop: Shop, mail_database: OwnDatabase, mail_books: Books, server: Server
) -> None:
    recipient = new_email()
    await put(mail_shop, recipient)
    nobody = SecretStr("smtp://127.0.0.1:1")
    async with open_shop(mail_database.settings(smtp_url=nobody)) as shop:
        assert await mailing.run_once(shop) == 1
    assert server.taken_by(recipient) == 0
    await all_is_due(mail_books)
    await mailing.run_once(mail_shop)
    assert server.taken_by(recipient) == 1


async def test_what_a_dead_worker_had_claimed_is_sent_by_the_next(
    mail_shop: Shop, mail_books: Books, server: Server
) -> None:
    recipient = new_email()
    await put(mail_shop, recipient)
    async with mail_shop.database.primary.transaction() as tx:
        assert len(await claim_mails(tx, 10, lease=mailing.LEASE)) == 1
    assert await mailing.run_once(mail_shop) == 0
    await all_is_due(mail_books)  # its lease is over
    assert await mailing.run_once(mail_shop) == 1
    assert server.taken_by(recipient) == 1


@pytest.mark.parametrize(
    "recipient",
    [
        "a@example.com\r\nbcc: b@example.com",
        "a@example.com\nSubject: other",
        "a@example.com\r",
        "a@exam\r\nple.com",
        "a@example.com, b@example.com",
    ],
)
async def test_an_address_that_would_end_its_field_is_never_sent(
    recipient: str, mail_shop: Shop, mail_books: Books, server: Server
) -> None:
    """Routes refuse it; should one ever get here, it is not sent either."""
    await put(mail_shop, recipient)
    await mailing.run_once(mail_shop)
    assert not server.mailbox.mails
    assert await mail_books.value("select state from mails") == "dead"


def test_a_mail_that_is_sent_twice_has_one_message_id() -> None:
    claimed = ClaimedMail(uuid4(), Mail("a@example.com", "A subject", "A body.\n"), 1)
    once, twice = (message_of(claimed, "Shop <shop@example.com>") for _ in range(2))
    assert once["Message-ID"] == twice["Message-ID"] == f"<{claimed.mail_id}@example.com>"
    assert once["From"] == "Shop <shop@example.com>"
    assert once["Auto-Submitted"] == "auto-generated"


# The mailbox of the stack


async def test_a_mail_of_the_stack_is_in_its_mailbox(
    http: httpx.AsyncClient, stack: RunningStack, books: Books
) -> None:
    await books.rows("delete from login_tries")  # what others have asked for from this machine
    email = new_email()
    assert (await http.post("/customers", json={"email": email})).status_code == 202
    async with http_client(stack.state["mailbox_url"]) as mailbox:

        async def is_there() -> bool:
            return bool((await mailbox.get("/mails", params={"recipient": email})).json()["items"])

        await until(is_there, within_s=20, what="the mail is in the mailbox")
        (mail,) = (await mailbox.get("/mails", params={"recipient": email})).json()["items"]
        token = re.search(r"^[A-Za-z0-9_-]{43}$", mail["body"], re.MULTILINE)
        assert token is not None
        page = await mailbox.get("/")
        assert token[0] in page.text
        for name, value in PAGE_HEADERS.items():
            assert page.headers[name] == value
        foreign = await mailbox.get("/", headers={"host": "mails.example.com"})
        assert foreign.status_code == 400
    body = {"token": token[0], "password": "a password of mine"}
    assert (await http.post("/customers/confirmations", json=body)).status_code == 201


async def test_the_mailbox_shows_mails_as_text(server: Server) -> None:
    client = mailing.client_of(f"smtp://127.0.0.1:{server.port}")
    await client.connect()
    hostile = Mail("a@example.com", "<img src=x>", "<script>alert(1)</script>\n")
    await client.send_message(message_of(ClaimedMail(uuid4(), hostile, 1), "s@example.com"))
    await client.quit()
    app = make_app(MailboxSettings(), server.mailbox)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as page:
        text = (await page.get("/")).text
    assert "<script>" not in text and "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


async def test_a_person_signs_up_through_the_worker(
    mail_shop: Shop, mail_books: Books, server: Server
) -> None:
    """The mail that a route has put is the one that the worker sends."""
    async with asgi_client(mail_shop) as client:
        person = Person(client, mail_books)
        await person.asked("POST", "/customers", {"email": person.email})
        token = await person.mailed()
        assert await mailing.run_once(mail_shop) == 1
    (mail,) = server.mailbox.mails
    assert mail.recipients == [person.email] and token in mail.body
