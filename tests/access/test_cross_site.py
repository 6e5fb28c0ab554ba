"""Which requests come from another site."""

from __future__ import annotations

import pytest

from services.access.cross_site import Sites, is_of
from services.exchange import Headers
from services.problems import CrossSiteRequest

ALLOWED = Sites(["https://app.example"])


def refused(sites: Sites, headers: Headers, host: bytes = b"shop.example") -> bool:
    try:
        sites.check(headers, host)
    except CrossSiteRequest:
        return True
    return False


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        (b"https://shop.example", b"shop.example", True),
        (b"http://shop.example", b"shop.example", True),
        (b"https://shop.example", b"SHOP.example:443", True),
        (b"http://shop.example:80", b"shop.example", True),
        (b"http://127.0.0.1:8080", b"127.0.0.1:8080", True),
        (b"https://[::1]:8443", b"[::1]:8443", True),
        (b"https://shop.example:8443", b"shop.example", False),
        (b"https://shop.example:80", b"shop.example", False),
        (b"https://evil.example", b"shop.example", False),
        (b"https://shop.example.evil.example", b"shop.example", False),
        (b"https://evil.example/shop.example", b"shop.example", False),
        (b"https://xshop.example", b"shop.example", False),
        (b"null", b"shop.example", False),
        (b"null", b"", False),
        (b"", b"", False),
        (b"file://", b"", False),
        (b"shop.example", b"shop.example", False),
    ],
)
def test_an_origin_is_that_of_its_host_or_not(origin: bytes, host: bytes, own: bool) -> None:
    assert is_of(origin, host) is own


@pytest.mark.parametrize(
    "site", [b"cross-site", b"same-site", b"", b"same-origin,cross-site", b"x"]
)
def test_what_a_browser_says_of_the_site_counts_before_origin(site: bytes) -> None:
    headers = [(b"sec-fetch-site", site), (b"origin", b"https://shop.example")]
    assert refused(Sites(), headers)
    assert refused(ALLOWED, headers)


def test_the_own_site_and_the_user_may_send() -> None:
    for site in (b"same-origin", b"none"):
        assert not refused(Sites(), [(b"sec-fetch-site", site)])
        # Proxies may have changed Host: the browser's word on the site is enough.
        assert not refused(Sites(), [(b"sec-fetch-site", site), (b"origin", b"https://x.example")])


def test_one_of_two_words_that_is_another_sites_is_enough() -> None:
    assert refused(
        Sites(), [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")]
    )
    both = [(b"origin", b"https://shop.example"), (b"origin", b"https://evil.example")]
    assert refused(Sites(), both)
    assert refused(ALLOWED, [*both, (b"origin", b"https://app.example")])


def test_who_says_nothing_is_no_browser() -> None:
    assert not refused(Sites(), [(b"accept", b"*/*"), (b"referer", b"https://evil.example/")])


def test_a_site_that_is_allowed_may_send_as_itself_only() -> None:
    app = (b"origin", b"HTTPS://app.example")
    assert not refused(ALLOWED, [app])
    for site in (b"cross-site", b"same-site"):
        assert not refused(ALLOWED, [(b"sec-fetch-site", site), app])
        assert refused(ALLOWED, [(b"sec-fetch-site", site)])
    assert refused(Sites(), [app])
