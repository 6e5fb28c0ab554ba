"""Mailing: the worker that sends what waits, by SMTP; at least once, and never for ever.

A mail is claimed, sent, deleted: a worker that dies in between leaves it to the next one, who sends
it again. What the server refuses for good (5xx) is dead at once; all else is tried again, later and
later.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Final
from urllib.parse import unquote, urlsplit

import aiosmtplib
from aiosmtplib.errors import SMTPException, SMTPResponseException

from services.business.rounds import run_rounds
from services.business.shop import Shop
from services.data import mails
from services.data.mails import ClaimedMail
from services.telemetry import logger

log = logger(__name__)

ROWS: Final = 20  # a server takes some tens a second over one connection
TIMEOUT_S: Final = 10.0  # of each command
# All of a round may take its time, and then some.
LEASE: Final = timedelta(seconds=ROWS * TIMEOUT_S)
# 10 s, 20 s, 40 s, …: the eighth is 21 minutes after the first, and its token lasts an hour.
FIRST_WAIT: Final = timedelta(seconds=10)
ATTEMPTS: Final = 8
PERMANENT: Final = 500  # RFC 5321 4.2.1
DETAIL_MAX: Final = 200


async def run(shop: Shop) -> None:
    """Send for ever."""
    await run_rounds(shop.rounds_of("mails"), lambda: run_once(shop), full=ROWS)


async def run_once(shop: Shop) -> int:
    """Send the oldest mails that are due and that no other worker has; returns how many."""
    async with shop.database.primary.transaction() as tx:
        claimed = await mails.claim_mails(tx, ROWS, lease=LEASE)
    if claimed:
        await _send_all(shop, claimed)
    shop.counts.mails_waiting = await mails.count_mails(shop.database.primary)
    return len(claimed)


async def _send_all(shop: Shop, claimed: Sequence[ClaimedMail]) -> None:
    """Over one connection, as long as it holds."""
    client = client_of(shop.settings.smtp_url.get_secret_value())
    try:
        for each in claimed:
            await _send(shop, client, each)
    finally:
        with suppress(SMTPException, OSError):
            await client.quit()


async def _send(shop: Shop, client: aiosmtplib.SMTP, claimed: ClaimedMail) -> None:
    error: Exception | None = None
    try:
        if not client.is_connected:
            await client.connect()
        await client.send_message(message_of(claimed, shop.settings.mail_from))
    except (SMTPException, OSError, ValueError) as failed:
        error = failed
    async with shop.database.primary.transaction() as tx:
        if error is None:
            await mails.delete_mail(tx, claimed.mail_id)
            shop.counts.mails_sent_total += 1
            return
        # What the server says may name the address: it goes into the table, not into the log.
        detail = repr(error)[:DETAIL_MAX].replace("\x00", "")
        if is_for_good(error) or claimed.attempt_count >= ATTEMPTS:
            await mails.give_up_mail(tx, claimed.mail_id, detail)
            log.error("mail given up", mail_id=str(claimed.mail_id), kind=type(error).__name__)
        else:
            wait = FIRST_WAIT * 2 ** (claimed.attempt_count - 1)
            await mails.put_off_mail(tx, claimed.mail_id, wait, detail)
            log.warning("mail put off", mail_id=str(claimed.mail_id), kind=type(error).__name__)
    shop.rounds_of("mails").errors_total += 1


def is_for_good(error: Exception) -> bool:
    """Whether the same mail would be refused again."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(is_for_good(each) for each in error.recipients)
    if isinstance(error, ValueError):
        return True  # it can not be written as a mail
    # A server that does not let us in today is no reason to give up a mail.
    if isinstance(error, aiosmtplib.SMTPAuthenticationError | aiosmtplib.SMTPConnectResponseError):
        return False
    return isinstance(error, SMTPResponseException) and error.code >= PERMANENT


def message_of(claimed: ClaimedMail, sender: str) -> EmailMessage:
    """The mail as it is sent: sent twice, it has the same Message-ID.

    Raises ValueError for an address that would end its field.
    """
    mail = claimed.mail
    message = EmailMessage(policy=SMTP)
    name, address = parseaddr(sender)
    message["From"] = Address(name, addr_spec=address)
    message["To"] = Address(addr_spec=mail.recipient)
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{claimed.mail_id}@{address.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday answers it
    message.set_content(mail.body)
    return message


def client_of(url: str) -> aiosmtplib.SMTP:
    """A client that is not connected yet: smtp:// with STARTTLS where it is offered, or smtps://."""
    parts = urlsplit(url)
    return aiosmtplib.SMTP(
        hostname=parts.hostname,
        port=parts.port or (465 if parts.scheme == "smtps" else 587),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        use_tls=parts.scheme == "smtps",
        timeout=TIMEOUT_S,
    )
