"""What accounts are told by mail: plain text, in the transaction that causes it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from services.data.accounts import AccountToken, TokenKind
from services.data.mails import Mail

# As long as somebody takes to look for a mail, and no longer than a mailbox is to be trusted.
TOKEN_LIFETIME: Final = timedelta(hours=1)

SIGN_UP: Final = """\
Somebody, most likely you, wants an account with this address at our shop.

To have it, choose a password and send it with this token to /customers/confirmations:

{token}

The token can be used once, within an hour. If it was not you, do nothing: there is no account
without it.
"""
SIGN_UP_AGAIN: Final = """\
Somebody, most likely you, wants an account with this address at our shop. There is one already.

If you have forgotten its password, choose another and send it with this token to
/password-resets/completions:

{token}

The token can be used once, within an hour. If it was not you, do nothing: all stays as it is.
"""
RESET: Final = """\
Somebody, most likely you, has forgotten the password of the account with this address at our shop.

To have another, choose one and send it with this token to /password-resets/completions:

{token}

The token can be used once, within an hour. If it was not you, do nothing: all stays as it is.
"""
RESET_NOBODYS: Final = """\
Somebody, most likely you, has forgotten the password of an account with this address at our shop.
There is none.

If you want one, choose a password and send it with this token to /customers/confirmations:

{token}

The token can be used once, within an hour. If it was not you, do nothing: there is no account
without it.
"""
CHANGED: Final = """\
The password of your account at our shop has been changed, and all other sessions have ended.

If it was not you, ask for a new password at /password-resets.
"""
# By what was asked for, and whether the address has an account.
TEXTS: Final[dict[tuple[TokenKind, bool], tuple[str, str]]] = {
    ("confirmation", False): ("Your account", SIGN_UP),
    ("confirmation", True): ("Your account", SIGN_UP_AGAIN),
    ("reset", True): ("Your password", RESET),
    ("reset", False): ("Your password", RESET_NOBODYS),
}


def token_mail(asked: TokenKind, proof: AccountToken, token: str) -> Mail:
    """The mail with a token; what it can be used for is what the address has need of."""
    subject, text = TEXTS[asked, proof.kind == "reset"]
    return Mail(proof.email, subject, text.format(token=token))


def changed_mail(email: str) -> Mail:
    """The mail about a password that was changed."""
    return Mail(email, "Your password was changed", CHANGED)
