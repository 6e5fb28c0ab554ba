"""Whose request it is: only what a trusted proxy vouches for counts."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access.client_address import (
    HOPS_LIMIT,
    Networks,
    client_of,
    forwarded_nodes,
    group_of,
    parsed_address,
)

PROXIES = "10.0.0.0/8,2001:db8:ffff::/48"
BY_X = Networks(PROXIES)
BY_FORWARDED = Networks(PROXIES, field=b"forwarded")

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


def by_x(*values: str, peer: str = "10.0.0.1") -> str:
    return client_of(peer, [(b"x-forwarded-for", value.encode()) for value in values], BY_X)


def by_forwarded(*values: str, peer: str = "10.0.0.1") -> str:
    headers = [(b"forwarded", value.encode()) for value in values]
    return client_of(peer, headers, BY_FORWARDED)


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    headers = [(b"x-forwarded-for", b"1.2.3.4"), (b"forwarded", b"for=1.2.3.4")]
    assert client_of("10.0.0.1", headers, Networks()) == "10.0.0.1"


def test_who_is_no_trusted_proxy_is_not_believed() -> None:
    assert by_x("1.2.3.4", peer="192.0.2.7") == "192.0.2.7"
    assert by_forwarded("for=1.2.3.4", peer="192.0.2.7") == "192.0.2.7"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # the left one is what the client made up
        (["6.6.6.6", "1.2.3.4, 10.2.0.9"], "1.2.3.4"),
        (["1.2.3.4, 10.2.0.9 , 10.2.0.8"], "1.2.3.4"),
        (["10.2.0.9"], "10.2.0.9"),  # trusted all the way: it asks for itself
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:db8::1]:443"], "2001:db8::1"),
        (["1.2.3.4:5678"], "1.2.3.4"),
        (["::ffff:1.2.3.4"], "1.2.3.4"),
        (["2001:DB8:0:0::1"], "2001:db8::1"),
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["unknown"], "10.0.0.1"),
        (["1.2.3.4, nonsense"], "10.0.0.1"),
        (["1.2.3.4, nonsense, 10.2.0.9"], "10.2.0.9"),
        (["1.2.3.4,"], "10.0.0.1"),
        (["1.2.3.4%eth0"], "10.0.0.1"),
        (["1.2.3"], "10.0.0.1"),
    ],
)
def test_x_forwarded_for_is_read_from_right_to_left(values: list[str], client: str) -> None:
    assert by_x(*values) == client


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["for=1.2.3.4"], "1.2.3.4"),
        (["For=1.2.3.4;proto=https;by=203.0.113.43"], "1.2.3.4"),
        (["proto=http ; for=1.2.3.4"], "1.2.3.4"),
        (['for="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17"),
        (['for="[2001:db8:cafe::17]"'], "2001:db8:cafe::17"),
        (['for="1.2.3.4:5678"'], "1.2.3.4"),
        (['for="1.2.3.4:_port"'], "1.2.3.4"),
        (["for=6.6.6.6, for=1.2.3.4, for=10.9.9.9"], "1.2.3.4"),
        (["for=6.6.6.6", "for=1.2.3.4"], "1.2.3.4"),
        (['for=6.6.6.6;host="a,b;for=7.7.7.7", for=1.2.3.4'], "1.2.3.4"),
        (['for=1.2.3.4;by="a\\"b, for=6.6.6.6"'], "1.2.3.4"),
        (["for=_hidden"], "10.0.0.1"),
        (["for=unknown"], "10.0.0.1"),
        (["for=1.2.3.4, for=_hidden, for=10.9.9.9"], "10.9.9.9"),
        (["proto=https"], "10.0.0.1"),
        (["for=1.2.3.4, proto=https"], "10.0.0.1"),
        (['for="1.2.3.4'], "10.0.0.1"),  # where an element does not end, none is believed
        (['for=1.2.3.4, for="'], "10.0.0.1"),
        (["for=[2001:db8::1]"], "10.0.0.1"),  # brackets have to be quoted
        (["for = 1.2.3.4"], "10.0.0.1"),
        (["junk for=1.2.3.4"], "10.0.0.1"),
        (["for=_a for=1.2.3.4"], "10.0.0.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(values: list[str], client: str) -> None:
    assert by_forwarded(*values) == client


def test_only_the_field_that_the_proxies_write_is_believed() -> None:
    headers = [(b"x-forwarded-for", b"6.6.6.6"), (b"forwarded", b"for=1.2.3.4")]
    assert client_of("10.0.0.1", headers, BY_X) == "6.6.6.6"
    assert client_of("10.0.0.1", headers, BY_FORWARDED) == "1.2.3.4"


def test_a_trusted_proxy_may_have_an_ipv6_address() -> None:
    assert by_x("1.2.3.4", peer="2001:db8:ffff::9") == "1.2.3.4"
    assert by_x("1.2.3.4", peer="::ffff:10.0.0.1") == "1.2.3.4"


@given(st.lists(addresses), addresses)
def test_a_client_can_not_choose_who_it_is(made_up: list[str], client: str) -> None:
    """Whatever it sends, the proxy adds whom it has seen, on the right."""
    seen = str(parsed_address(client))
    expected = seen if seen not in BY_X else None
    value = ", ".join([*made_up, client])
    forwarded = ", ".join(f'for="{_node(each)}"' for each in [*made_up, client])
    if expected is not None:
        assert by_x(value) == expected
        assert by_forwarded(forwarded) == expected


def _node(address: str) -> str:
    return f"[{address}]:80" if ":" in address else address


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(value: bytes) -> None:
    for networks in (BY_X, BY_FORWARDED):
        client = client_of("10.0.0.1", [(networks.field, value)], networks)
        assert parsed_address(client) is not None


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


anything = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(quoted)
others = st.lists(st.tuples(st.sampled_from(["by", "host", "proto", "x"]), anything), max_size=3)


@given(st.lists(st.tuples(addresses, others, others), min_size=1, max_size=5))
def test_what_stands_in_quotes_never_ends_an_element(
    elements: list[tuple[str, list[tuple[str, str]], list[tuple[str, str]]]],
) -> None:
    field = ", ".join(
        ";".join(
            f"{name}={value}" for name, value in [*before, ("for", quoted(_node(address))), *after]
        )
        for address, before, after in elements
    )
    found = forwarded_nodes(field.encode())
    assert found == [str(parsed_address(address)) for address, _, _ in elements]


def test_a_long_list_is_read_from_its_end_only() -> None:
    assert by_x(", ".join(["6.6.6.6"] * 10_000 + ["1.2.3.4"] + ["10.0.0.9"] * 5)) == "1.2.3.4"
    assert len(forwarded_nodes(b",".join([b"for=1.2.3.4"] * 1000))) == HOPS_LIMIT


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("unknown", "unknown"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_client_is_its_network(address: str, group: str) -> None:
    assert group_of(address) == group


@given(st.ip_addresses(v=6))
def test_addresses_of_one_network_are_one_client(address: IPv6Address) -> None:
    if address.ipv4_mapped is None:
        other = IPv6Address(int(address) ^ 0xFFFF)
        assert group_of(str(address)) == group_of(str(other))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_one_client_however_it_is_written(address: IPv4Address) -> None:
    assert group_of(str(address)) == group_of(f"::ffff:{address}") == str(address)
