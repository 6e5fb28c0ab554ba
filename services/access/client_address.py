"""Whose request it is behind a proxy: the address that the nearest trusted proxy vouches for.

Only a proxy in `trusted_proxies` is believed, and only about the field it writes. A proxy that
writes X-Forwarded-For passes on the Forwarded that a client made up, and the other way round, so
which of the two counts is a setting and never what happens to be there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeVar

Headers = Sequence[tuple[bytes, bytes]]
Address = IPv4Address | IPv6Address
T = TypeVar("T")

X_FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED: Final = b"forwarded"
# Hops between a client and us; what claims more is made up, and would be work for nothing.
HOPS_LIMIT: Final = 32
HELD_LIMIT: Final = 65_536  # decisions about addresses, some 100 bytes each
IPV6_CUSTOMER: Final = 64  # bits: the least a provider gives one customer (RFC 6177)

# RFC 7239 4 and RFC 9110 5.6: pairs of a token and a token or quoted string.
TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
PAIR: Final = re.compile(rb"[ \t]*(" + TOKEN + rb")=(" + TOKEN + rb"|" + QUOTED + rb")[ \t]*")
ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
PORT: Final = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
NODE_V4: Final = re.compile(r"([0-9.]+)" + PORT)
NODE_V6: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\]" + PORT)


class Networks:
    """Networks of trusted proxies, and which field they write. Decisions are remembered."""

    def __init__(self, cidrs: Iterable[str] | str = (), *, field: bytes = X_FORWARDED_FOR) -> None:
        """cidrs: 10.0.0.0/8 and the like; in a string they are separated by commas."""
        self.field = field
        if isinstance(cidrs, str):
            cidrs = [part.strip() for part in cidrs.split(",") if part.strip()]
        self._networks = [ip_network(cidr, strict=False) for cidr in cidrs]
        self._held: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        held = self._held.get(address)
        if held is None:
            held = self._contains(address)
            if len(self._held) >= HELD_LIMIT:
                self._held.clear()
            self._held[address] = held
        return held

    def _contains(self, address: str) -> bool:
        parsed = parsed_address(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def client_of(peer: str, headers: Headers, trusted: Networks) -> str:
    """The client's address: from right to left, the first that is no trusted proxy's.

    What can not be read, and an obfuscated or unknown node, ends the search: the answer is the
    proxy that reported it, the last of whom anything is known.
    """
    if not trusted or peer not in trusted:
        return peer
    client = peer
    for node in reversed(_nodes(headers, trusted.field)):
        if node is None:
            return client
        client = node
        if client not in trusted:
            return client
    return client


def group_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in address:
        return address
    parsed = parsed_address(address)
    if not isinstance(parsed, IPv6Address):
        return address if parsed is None else str(parsed)
    return str(IPv6Network((int(parsed) >> 64 << 64, IPV6_CUSTOMER)))


def parsed_address(text: str) -> Address | None:
    """The address; an IPv4 one that is written as IPv6 (::ffff:1.2.3.4) is the IPv4 one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _nodes(headers: Headers, field: bytes) -> list[str | None]:
    """Addresses in the order of the hops; None where there is none to be read."""
    value = b",".join(value for name, value in headers if name == field)
    if not value:
        return []
    if field == FORWARDED:
        return forwarded_nodes(value)
    return [_node(item.decode("latin-1").strip(" \t")) for item in _last(value.split(b","))]


def forwarded_nodes(value: bytes) -> list[str | None]:
    """The `for` nodes of a Forwarded field (RFC 7239 4), one an element; None: not an address.

    A field that is not well formed has no nodes at all: which comma ends an element is not known.
    """
    nodes: list[str | None] = []
    node: str | None = None
    at, end = 0, len(value)
    while at <= end:
        pair = PAIR.match(value, at)
        if pair is not None:
            at = pair.end()
            if pair[1].lower() == b"for":
                node = _node(_unquoted(pair[2]).decode("latin-1"))
        else:
            while value[at : at + 1] in (b" ", b"\t"):
                at += 1
        following = value[at : at + 1]
        if following not in (b";", b",", b""):
            return [None]
        if following != b";":
            nodes.append(node)
            node = None
        at += 1
    return _last(nodes)


def _unquoted(value: bytes) -> bytes:
    return ESCAPED.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value


def _node(text: str) -> str | None:
    """An address with or without brackets and port; None for unknown, _hidden and nonsense."""
    match = NODE_V6.fullmatch(text) or NODE_V4.fullmatch(text)
    address = parsed_address(match[1] if match else text)
    return None if address is None else str(address)


def _last(items: list[T]) -> list[T]:
    return items[-HOPS_LIMIT:]
