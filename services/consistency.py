"""What a client has seen of its own, as a token: no later read is answered by an older server.

Business says in an internal field of its answer which WAL position the client has now seen. Access
signs it for the client, verifies what comes back, and tells business.
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import Final, NamedTuple

# Between access and business: `timeline/position` in a request, `customer_id/timeline/position` in
# an answer.
INTERNAL_HEADER: Final = "x-internal-consistency"
# Between access and clients that hold no cookies.
TOKEN_HEADER: Final = "consistency-token"  # noqa: S105 - the name of a field

# Every standby that is read from has by then replayed what the token stands for: the lag limit and
# the time in which a late one is noticed are together below this.
LIFETIME_S: Final = 10.0
# Above every timeline of PostgreSQL, which counts from 1: a position that nobody knows. Its reads
# go to the primary.
UNKNOWN_TIMELINE: Final = 0xFFFF_FFFF
TOKEN: Final = re.compile(
    rb"([0-9a-f]{1,8})\.([0-9a-f]{1,16})\.([0-9a-f]{1,11})\.([A-Za-z0-9_-]{22})"
)
SEEN: Final = re.compile(r"([0-9]{1,10})/([0-9]{1,19})")
MAC_BYTES: Final = 16  # nobody has 10 s and 2^128 tries


class Seen(NamedTuple):
    """A place in the WAL: its timeline, and bytes from its start. Only within one timeline does
    the larger position contain the smaller one.
    """

    timeline: int
    position: int

    @property
    def text(self) -> str:
        return f"{self.timeline}/{self.position}"


UNKNOWN: Final = Seen(UNKNOWN_TIMELINE, 0)


def read_seen(text: str) -> Seen:
    """What Seen.text wrote; raises ValueError for anything else."""
    found = SEEN.fullmatch(text)
    if found is None:
        raise ValueError("must be timeline/position")
    return Seen(int(found[1]), int(found[2]))


class Seal:
    """Signs tokens and verifies them: timeline, position and milliseconds since 1970, in hex, and
    an HMAC over them and the customer.

    secret: whatever else it signs, it does not sign tokens by the key that is derived from it here.
    """

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"tercet consistency token 1", "sha256")

    def token(self, seen: Seen, customer_id: str, now: float) -> bytes:
        """The token of a customer who has seen this, by the wall clock in seconds."""
        text = b"%x.%x.%x" % (seen.timeline, seen.position, int(now * 1000))
        return text + b"." + self._mac(text, customer_id)

    def open(self, token: bytes, customer_id: str, now: float) -> Seen | None:
        """What a token of this customer's says, unless it is forged, over, or of a time to come.

        Clocks of two machines differ, so a token may be made up to its lifetime from now.
        """
        found = TOKEN.fullmatch(token)
        if found is None:
            return None
        text = token[: found.end(3)]
        if not hmac.compare_digest(self._mac(text, customer_id), found[4]):
            return None
        age_s = now - int(found[3], 16) / 1000
        if abs(age_s) > LIFETIME_S:
            return None
        return Seen(int(found[1], 16), int(found[2], 16))

    def _mac(self, text: bytes, customer_id: str) -> bytes:
        mac = hmac.digest(self._key, b"%b|%b" % (customer_id.encode(), text), "sha256")
        return base64.urlsafe_b64encode(mac[:MAC_BYTES])[:22]
