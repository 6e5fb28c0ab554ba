"""Requests that another site has a browser send: refused where a cookie would vouch for them.

A browser adds its cookies to what any page has it send. SameSite=Lax keeps them from most of that;
this keeps the rest out, by what browsers say of where a request comes from and scripts can not
change: Sec-Fetch-Site (W3C Fetch Metadata), or Origin where that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.exchange import Headers
from services.problems import CrossSiteRequest

OWN: Final = (b"same-origin", b"none")  # none: the user typed it, or a bookmark did
PORTS: Final = {b"http": b":80", b"https": b":443"}


class Sites:
    """The sites whose pages may send what changes something."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """allowed: origins beside the own one, as https://shop.example."""
        self._allowed = frozenset(origin.lower().encode() for origin in allowed)

    def check(self, headers: Headers, host: bytes) -> None:
        """Raise CrossSiteRequest for what a page of another site sends; host: of the request.

        Clients that are no browsers send neither field, and no other site has them send anything.
        """
        sites = [value for name, value in headers if name == b"sec-fetch-site"]
        origins = [value.lower() for name, value in headers if name == b"origin"]
        if sites:
            own = all(site in OWN for site in sites)
        else:
            own = all(is_of(origin, host) for origin in origins)
        if not own and not (origins and all(origin in self._allowed for origin in origins)):
            raise CrossSiteRequest


def is_of(origin: bytes, host: bytes) -> bool:
    """Whether an origin in lower case is that of a Host, of whichever scheme: proxies end TLS."""
    scheme, _, authority = origin.partition(b"://")
    port = PORTS.get(scheme)
    if port is None:
        return False
    return authority.removesuffix(port) == host.lower().removesuffix(port)
