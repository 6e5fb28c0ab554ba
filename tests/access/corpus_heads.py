"""Request lines and headers that are not HTTP/1.1, or not ours to serve."""

from __future__ import annotations

from typing import Final

from tests.access.cases import GET, HOST, SMUGGLED, Case, get, lines, refused

LINE: Final = "RFC 9112 3"
VERSION: Final = "RFC 9112 2.3"
TARGET: Final = "RFC 9112 3.2"
HOST_RULE: Final = "RFC 9112 3.2"
HEADER: Final = "RFC 9112 5.1"
VALUE: Final = "RFC 9110 5.5"
ENDING: Final = "RFC 9112 2.2"


def line(first: bytes, *given: bytes) -> bytes:
    return lines(first, *(given or (HOST,)))


def target(text: bytes) -> bytes:
    return line(b"GET " + text + b" HTTP/1.1")


def host(*values: bytes) -> bytes:
    return lines(GET, *[b"Host: " + value for value in values])


METHODS: Final = [
    refused("trace", "RFC 9110 9.3.8", line(b"TRACE /here HTTP/1.1"), 405),
    refused("trace of the server", "RFC 9110 9.3.8", line(b"TRACE * HTTP/1.1"), 400, 405),
    refused("connect", "RFC 9110 9.3.6", line(b"CONNECT a:443 HTTP/1.1"), 405),
    refused("connect to a path", "RFC 9110 9.3.6", line(b"CONNECT /here HTTP/1.1"), 400, 405),
    refused("a method of WebDAV", "RFC 9110 9.1", line(b"PROPFIND /here HTTP/1.1"), 405),
    refused("a method of caches", "RFC 9110 9.1", line(b"PURGE /here HTTP/1.1"), 405),
    refused("a method nobody knows", "RFC 9110 9.1", line(b"SMUGGLE /here HTTP/1.1"), 400, 405),
    refused("a method in small letters", "RFC 9110 9.1", line(b"get /here HTTP/1.1")),
    refused("a method in mixed letters", "RFC 9110 9.1", line(b"Get /here HTTP/1.1")),
    refused("a method and more", "RFC 9110 9.1", line(b"GETX /here HTTP/1.1"), 400, 405),
    refused("half a method", "RFC 9110 9.1", line(b"GE /here HTTP/1.1")),
    refused("a method with a NUL", LINE, line(b"G\0ET /here HTTP/1.1")),
    refused("a method with a bracket", LINE, line(b"GET( /here HTTP/1.1")),
    refused("a long method", LINE, line(b"A" * 5000 + b" /here HTTP/1.1"), 400, 405, 414),
]

REQUEST_LINES: Final = [
    refused("a space before the method", LINE, line(b" GET /here HTTP/1.1")),
    refused("a tab after the method", LINE, line(b"GET\t/here HTTP/1.1")),
    refused("a tab before the version", LINE, line(b"GET /here\tHTTP/1.1")),
    refused("a space after the version", LINE, line(b"GET /here HTTP/1.1 ")),
    refused("no target", LINE, line(b"GET HTTP/1.1")),
    refused("an empty target", LINE, line(b"GET  HTTP/1.1")),
    refused("HTTP/0.9", VERSION, b"GET /here\r\n\r\n"),
    refused("HTTP/0.9 said", VERSION, line(b"GET /here HTTP/0.9")),
    refused("HTTP/1.2", VERSION, line(b"GET /here HTTP/1.2"), 400, 505),
    refused("HTTP/2.0", VERSION, line(b"GET /here HTTP/2.0"), 400, 505),
    refused("HTTP/3.0", VERSION, line(b"GET /here HTTP/3.0"), 400, 505),
    refused("the preface of HTTP/2", "RFC 9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505),
    refused("http in small letters", VERSION, line(b"GET /here http/1.1")),
    refused("HTTPS", VERSION, line(b"GET /here HTTPS/1.1")),
    refused("another protocol", VERSION, line(b"GET /here ICY/1.1")),
    refused("a version of one number", VERSION, line(b"GET /here HTTP/1")),
    refused("a version of three numbers", VERSION, line(b"GET /here HTTP/1.1.1")),
    refused("a version with a zero before", VERSION, line(b"GET /here HTTP/01.1")),
    refused("a version with a zero after", VERSION, line(b"GET /here HTTP/1.10")),
    refused("a version with a comma", VERSION, line(b"GET /here HTTP/1,1")),
    refused("a version with a space", VERSION, line(b"GET /here HTTP/ 1.1")),
    refused("a version without its slash", VERSION, line(b"GET /here HTTP1.1")),
    refused("a NUL in the version", VERSION, line(b"GET /here HTTP/1.1\0")),
    refused("an answer", LINE, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    refused("the greeting of TLS", LINE, bytes.fromhex("1603010200010001fc0303") + bytes(64)),
    refused("the greeting of SSH", LINE, b"SSH-2.0-x\r\n\r\n"),
    refused("the line of a proxy", LINE, b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + get()),
    refused("bytes of a proxy", LINE, b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + get()),
    refused("JSON", LINE, b'{"a": 1}\r\n\r\n'),
]

TARGETS: Final = [
    refused("a space in the target", TARGET, target(b"/here y")),
    refused("a control character in the target", TARGET, target(b"/he\x01re")),
    refused("a NUL in the target", TARGET, target(b"/he\0re")),
    refused("a DEL in the target", TARGET, target(b"/he\x7fre")),
    refused("a line end in the target", TARGET, target(b"/he\nre")),
    refused("a lone CR in the target", TARGET, target(b"/he\rre")),
    refused("a fragment", TARGET, target(b"/here#y")),
    refused("bytes beyond ASCII in the target", TARGET, target(b"/\xc3\xa9")),
    refused("bytes beyond ASCII in the query", TARGET, target(b"/here?\xc3\xa9")),
    refused("no slash", TARGET, target(b"here")),
    refused("a backslash for a slash", TARGET, target(b"\\here")),
    refused("a query alone", TARGET, target(b"?here")),
    refused("a star for a get", "RFC 9112 3.2.4", target(b"*")),
    refused("an authority for a get", "RFC 9112 3.2.3", target(b"a:80")),
    refused("a star and more", "RFC 9112 3.2.4", line(b"OPTIONS */here HTTP/1.1")),
    refused("an encoded NUL", "RFC 3986 7.3", target(b"/here%00")),
    refused("an encoded line end", "RFC 3986 7.3", target(b"/here%0d%0aX:%20y")),
    refused("another scheme", "RFC 9112 3.2.2", target(b"ftp://a/here")),
    refused("a file", "RFC 9112 3.2.2", target(b"file:///here")),
    refused("a script", "RFC 9112 3.2.2", target(b"javascript:here")),
    refused("a user in the target", "RFC 9110 4.2.4", target(b"http://u:p@a/here")),
    refused("an absolute target without a host", "RFC 9110 4.2.1", target(b"http:///here")),
    refused("an absolute target without slashes", "RFC 9110 4.2.1", target(b"http:here")),
    refused("an absolute target with a wrong port", "RFC 9110 4.2.1", target(b"http://a:x/here")),
    refused("an absolute target with a backslash", "RFC 9110 4.2.1", target(b"http://a\\b/here")),
    refused("an absolute target with a fragment", "RFC 9112 3.2.2", target(b"http://a/here#y")),
    refused("an absolute target, no host field", HOST_RULE,
            lines(b"GET http://a/here HTTP/1.1")),
    refused("an absolute target, a wrong host field", HOST_RULE,
            lines(b"GET http://a/here HTTP/1.1", b"Host: a/b")),
    refused("an absolute target, two host fields", HOST_RULE,
            lines(b"GET http://a/here HTTP/1.1", HOST, HOST)),
]  # fmt: skip

HOSTS: Final = [
    refused("no host", HOST_RULE, lines(GET)),
    refused("two hosts", HOST_RULE, host(b"a", b"b")),
    refused("the same host twice", HOST_RULE, host(b"a", b"a")),
    refused("two hosts in HTTP/1.0", HOST_RULE, lines(b"GET /here HTTP/1.0", HOST, HOST)),
    refused("an empty host", HOST_RULE, lines(GET, b"Host:")),
    refused("a host with a path", HOST_RULE, host(b"a/b")),
    refused("a host with a user", HOST_RULE, host(b"u@a")),
    refused("a host with a space", HOST_RULE, host(b"a b")),
    refused("a host with a tab", HOST_RULE, host(b"a\tb")),
    refused("a list of hosts", HOST_RULE, host(b"a, b")),
    refused("a host with a query", HOST_RULE, host(b"a?b")),
    refused("a host with a fragment", HOST_RULE, host(b"a#b")),
    refused("a host with a backslash", HOST_RULE, host(b"a\\b")),
    refused("a host in quotes", HOST_RULE, host(b'"a"')),
    refused("a host with a scheme", HOST_RULE, host(b"http://a")),
    refused("a host with bytes beyond ASCII", HOST_RULE, host(b"\xc3\xa9")),
    refused("a host with escapes", HOST_RULE, host(b"a%00")),
    refused("a host with a colon and no port", HOST_RULE, host(b"a:")),
    refused("a host with a port of letters", HOST_RULE, host(b"a:http")),
    refused("a host with a negative port", HOST_RULE, host(b"a:-1")),
    refused("a host with two ports", HOST_RULE, host(b"a:1:2")),
    refused("a host with half a bracket", HOST_RULE, host(b"[::1")),
    refused("a host of IPv6 without brackets", HOST_RULE, host(b"::1")),
    refused("a host on a folded line", "RFC 9112 5.2", lines(GET, b"Host:", b" a")),
]

HEADERS: Final = [
    refused("a space before the colon", HEADER, lines(GET, b"Host : a")),
    refused("a tab before the colon", HEADER, lines(GET, b"Host\t: a")),
    refused("a space before the first name", ENDING, lines(GET, b" Host: a")),
    refused("a tab before the first name", ENDING, lines(GET, b"\tX: y", HOST)),
    refused("a space inside a name", HEADER, get(b"X Y: z")),
    refused("no name", HEADER, get(b": y")),
    refused("no colon", HEADER, get(b"X")),
    refused("a bracket in a name", HEADER, get(b"X(y): z")),
    refused("a slash in a name", HEADER, get(b"X/Y: z")),
    refused("an at in a name", HEADER, get(b"X@Y: z")),
    refused("a quote in a name", HEADER, get(b'X"Y: z')),
    refused("a NUL in a name", HEADER, get(b"X\0Y: z")),
    refused("a DEL in a name", HEADER, get(b"X\x7fY: z")),
    refused("bytes beyond ASCII in a name", HEADER, get(b"X\xc3\xa9: z")),
    refused("a folded line", "RFC 9112 5.2", get(b"X: y", b" z")),
    refused("a line folded by a tab", "RFC 9112 5.2", get(b"X: y", b"\tz")),
    refused("a line folded to nothing", "RFC 9112 5.2", get(b"X: y", b" ")),
    refused("a NUL in a value", VALUE, get(b"X: y\0z")),
    refused("a NUL after a value", VALUE, get(b"X: y\0")),
    refused("a control character in a value", VALUE, get(b"X: y\x01z")),
    refused("a vertical tab in a value", VALUE, get(b"X: y\x0bz")),
    refused("a form feed in a value", VALUE, get(b"X: y\x0cz")),
    refused("an escape character in a value", VALUE, get(b"X: y\x1bz")),
    refused("a DEL in a value", VALUE, get(b"X: y\x7fz")),
    refused("a control character in the host", HOST_RULE, host(b"a\x01")),
]

LINE_ENDS: Final = [
    refused("lines that end with LF", ENDING, b"GET /here HTTP/1.1\nHost: a\n\n"),
    refused("a request line that ends with LF", ENDING, b"GET /here HTTP/1.1\nHost: a\r\n\r\n"),
    refused("a header that ends with LF", ENDING, get(b"X: y\nZ: z")),
    refused("a head that ends with LF", ENDING, GET + b"\r\nHost: a\r\n\n" + SMUGGLED),
    refused("a last header that ends with LF", ENDING, GET + b"\r\nHost: a\n\r\n" + SMUGGLED),
    refused("two LF at the end", ENDING, GET + b"\r\nHost: a\n\n" + SMUGGLED),
    refused("a lone CR in a value", ENDING, get(b"X: y\rZ: z")),
    refused("a lone CR for a line end", ENDING, GET + b"\r\nHost: a\rX: y\r\n\r\n"),
    refused("a lone CR after the request line", ENDING, GET + b"\rHost: a\r\n\r\n"),
    refused("two CR before LF", ENDING, get(b"X: y\r")),
    refused("two CR before the last LF", ENDING, GET + b"\r\nHost: a\r\n\r\r\n" + SMUGGLED),
    refused("lone CRs at the end", ENDING, GET + b"\r\nHost: a\r\r" + SMUGGLED),
    refused("LF and CR", ENDING, GET + b"\n\rHost: a\n\r\n\r" + SMUGGLED),
]

LIMITS: Final = [
    refused("a target of 100 KB", "RFC 9110 15.5.15", target(b"/here" + b"a" * 100_000), 414),
    refused("a query of 100 KB", "RFC 9110 15.5.15", target(b"/here?" + b"a" * 100_000), 414),
    refused("1,000 fields", "RFC 6585 5", get(*[b"X-%d: y" % n for n in range(1000)]), 431),
    refused("a value of 100 KB", "RFC 6585 5", get(b"X: " + b"y" * 100_000), 431),
    refused("a name of 100 KB", "RFC 6585 5", get(b"X" * 100_000 + b": y"), 431),
    refused("spaces of 100 KB before a value", "RFC 6585 5", get(b"X:" + b" " * 100_000 + b"y"),
            431),
]  # fmt: skip

HEADS: Final[list[Case]] = [
    *(*METHODS, *REQUEST_LINES, *TARGETS, *HOSTS, *HEADERS, *LINE_ENDS, *LIMITS)
]
