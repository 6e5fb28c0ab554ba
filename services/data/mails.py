"""Mails that wait to be sent: written with what causes them, deleted once they are sent."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from services.data.sources import Reader, Transaction


class Mail(NamedTuple):
    recipient: str
    subject: str
    body: str


class ClaimedMail(NamedTuple):
    mail_id: UUID
    mail: Mail
    attempt_count: int


class MailsWaiting(NamedTuple):
    """How many are to be sent, and how many never will be."""

    waiting: int
    dead: int


INSERT_MAIL = "insert into mails (recipient, subject, body) values ($1, $2, $3)"

# Pushing next_attempt_at is the lease: another worker leaves these alone until then.
CLAIM_MAILS = """
    with due as (
        select mail_id from mails where state = 'waiting' and next_attempt_at <= now()
        order by next_attempt_at limit $1 for update skip locked
    )
    update mails m set attempt_count = m.attempt_count + 1, next_attempt_at = now() + $2::interval
    from due where m.mail_id = due.mail_id
    returning m.mail_id, m.recipient, m.subject, m.body, m.attempt_count
"""

DELETE_MAIL = "delete from mails where mail_id = $1"

PUT_OFF = "update mails set next_attempt_at = now() + $2::interval, detail = $3 where mail_id = $1"

# What it says is a secret of its reader's, and is not kept longer than it can be of use.
GIVE_UP = "update mails set state = 'dead', body = '', detail = $2 where mail_id = $1"

COUNT_MAILS = """
    select count(*) filter (where state = 'waiting'), count(*) filter (where state = 'dead')
    from mails
"""


async def insert_mail(tx: Transaction, mail: Mail) -> None:
    """Have a mail sent once the transaction has committed."""
    await tx.execute(INSERT_MAIL, *mail)


async def claim_mails(tx: Transaction, limit: int, *, lease: timedelta) -> list[ClaimedMail]:
    """Those that are due and that no other worker has."""
    rows = await tx.fetch(CLAIM_MAILS, limit, lease)
    return [ClaimedMail(row[0], Mail(*row[1:4]), row[4]) for row in rows]


async def delete_mail(tx: Transaction, mail_id: UUID) -> None:
    await tx.execute(DELETE_MAIL, mail_id)


async def put_off_mail(tx: Transaction, mail_id: UUID, wait: timedelta, detail: str) -> None:
    """Try again later."""
    await tx.execute(PUT_OFF, mail_id, wait, detail)


async def give_up_mail(tx: Transaction, mail_id: UUID, detail: str) -> None:
    """Never try again; that it was to be sent stays for people to see."""
    await tx.execute(GIVE_UP, mail_id, detail)


async def count_mails(reader: Reader) -> MailsWaiting:
    row = await reader.fetchrow(COUNT_MAILS)
    return MailsWaiting(*row) if row is not None else MailsWaiting(0, 0)
