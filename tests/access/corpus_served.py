"""Requests that have to be served, some of them odd: strict must not become deaf."""

from __future__ import annotations

from typing import Final

from tests.access.cases import (
    CHUNKED,
    GET,
    HOST,
    POST,
    Case,
    answered_here,
    chunked,
    get,
    lines,
    post,
    served,
)

HEAD_FORM: Final = "RFC 9112 5"
VALUE: Final = "RFC 9110 5.5"
TARGET_FORM: Final = "RFC 9112 3.2"
LENGTH: Final = "RFC 9112 6.3"
CHUNKS: Final = "RFC 9112 7.1"
KEPT: Final = "RFC 9112 9.3"


def absolute(target: bytes, *given: bytes) -> bytes:
    return lines(b"GET " + target + b" HTTP/1.1", *(given or (HOST,)))


REQUEST_LINES: Final = [
    served("plain", "RFC 9112 3", get()),
    served("an empty line before it", "RFC 9112 2.2", b"\r\n" + get()),
    served("head request", "RFC 9110 9.3.2", lines(b"HEAD /here HTTP/1.1", HOST), method=b"HEAD"),
    served("put", "RFC 9110 9.3.4", lines(b"PUT /here HTTP/1.1", HOST, b"Content-Length: 1",
           body=b"a"), method=b"PUT", body=b"a"),
    served("patch", "RFC 5789", lines(b"PATCH /here HTTP/1.1", HOST, b"Content-Length: 1",
           body=b"a"), method=b"PATCH", body=b"a"),
    served("delete", "RFC 9110 9.3.5", lines(b"DELETE /here HTTP/1.1", HOST), method=b"DELETE"),
    served("options of a path", "RFC 9110 9.3.7", lines(b"OPTIONS /here HTTP/1.1", HOST),
           method=b"OPTIONS"),
    answered_here("options of the server", "RFC 9112 3.2.4",
                  lines(b"OPTIONS * HTTP/1.1", HOST), 204),
    answered_here("a page of access itself", "RFC 9112 3", lines(b"GET /live HTTP/1.1", HOST), 200),
    served("a query", TARGET_FORM, absolute(b"/here?a=b&c='();:@/?!$"),
           target=b"/here?a=b&c='();:@/?!$"),
    served("escapes stay as they came", "RFC 3986 2.1", absolute(b"/h%65re/%C3%A9?%2f"),
           target=b"/h%65re/%C3%A9?%2f"),
    served("two slashes are no authority", TARGET_FORM, absolute(b"//here/y"), target=b"//here/y"),
    served("dots stay as they came", "RFC 3986 6.2.2.3", absolute(b"/here/./a/../b"),
           target=b"/here/./a/../b"),
    served("absolute", "RFC 9112 3.2.2", absolute(b"http://b/here?q"), target=b"/here?q",
           has={b"x-forwarded-host": [b"b"]}),
    served("absolute with a port", "RFC 9112 3.2.2", absolute(b"http://b:81/here"),
           has={b"x-forwarded-host": [b"b:81"]}),
    served("absolute, scheme in capitals", "RFC 3986 3.1", absolute(b"HTTP://b/here"),
           has={b"x-forwarded-host": [b"b"]}),
    served("absolute by https", "RFC 9112 3.2.2", absolute(b"https://b/here"),
           has={b"x-forwarded-host": [b"b"]}),
    served("absolute without a path", "RFC 9110 4.2.3", absolute(b"http://b"), target=b"/",
           has={b"x-forwarded-host": [b"b"]}),
    served("absolute with a query alone", "RFC 9110 4.2.3", absolute(b"http://b?q"), target=b"/?q",
           has={b"x-forwarded-host": [b"b"]}),
]  # fmt: skip

HEADERS: Final = [
    served("names in capitals", HEAD_FORM, lines(GET, b"HOST: a", b"ACCEPT: x"),
           has={b"accept": [b"x"]}),
    served("no space after the colon", HEAD_FORM, lines(GET, b"Host:a", b"Accept:x"),
           has={b"accept": [b"x"], b"x-forwarded-host": [b"a"]}),
    served("spaces and tabs around values", VALUE,
           lines(GET, b"Host:\t a \t", b"Accept: \t x y \t"),
           has={b"accept": [b"x y"], b"x-forwarded-host": [b"a"]}),
    served("a tab inside a value", VALUE, get(b"Accept: x\ty"), has={b"accept": [b"x\ty"]}),
    served("an empty value", VALUE, get(b"Accept:"), has={b"accept": [b""]}),
    served("bytes beyond ASCII in a value", VALUE, get(b"X-Word: \xc3\xa9\xff"),
           has={b"x-word": [b"\xc3\xa9\xff"]}),
    served("a name twice, in order", "RFC 9110 5.3", get(b"Accept: x", b"Accept: y"),
           has={b"accept": [b"x", b"y"]}),
    served("every character of a token", "RFC 9110 5.6.2", get(b"X!#$%&'*+-.^`|~9: y"),
           has={b"x!#$%&'*+-.^`|~9": [b"y"]}),
    served("a name with an underscore is not passed on", VALUE, get(b"X_Word: y"),
           lacks=(b"x_word", b"x-word")),
    served("a coding by another name is no framing", LENGTH,
           post(b"Transfer_Encoding: chunked", b"Content-Length: 2", body=b"ab"),
           method=b"POST", body=b"ab", lacks=(b"transfer_encoding", b"transfer-encoding")),
    served("what Connection names is for this hop", "RFC 9110 7.6.1",
           get(b"Connection: x-mine, keep-alive", b"X-Mine: y", b"TE: trailers", b"Keep-Alive: 5"),
           lacks=(b"x-mine", b"te", b"keep-alive")),
    served("Connection can not take framing away", "RFC 9110 7.6.1",
           post(b"Connection: content-length", b"Content-Length: 2", body=b"ab"),
           method=b"POST", body=b"ab", has={b"content-length": [b"2"]}),
    served("a host with a port", "RFC 9110 7.2", lines(GET, b"Host: A.example:8080"),
           has={b"x-forwarded-host": [b"A.example:8080"]}),
    served("a host of IPv6", "RFC 3986 3.2.2", lines(GET, b"Host: [::1]:80"),
           has={b"x-forwarded-host": [b"[::1]:80"]}),
]  # fmt: skip

BODIES: Final = [
    served("a length", LENGTH, post(b"Content-Length: 4", body=b"abcd"), method=b"POST",
           body=b"abcd", has={b"content-length": [b"4"]}),
    served("a length of nothing", LENGTH, post(b"Content-Length: 0"), method=b"POST"),
    served("no length is no body", LENGTH, post(), method=b"POST"),
    served("zeros before a length", "RFC 9110 8.6", post(b"Content-Length: 004", body=b"abcd"),
           method=b"POST", body=b"abcd", has={b"content-length": [b"4"]}),
    served("a body that looks like a request", LENGTH,
           post(b"Content-Length: 18", body=b"GET /y HTTP/1.1\r\n\r"),
           method=b"POST", body=b"GET /y HTTP/1.1\r\n\r"),
    served("a body with NUL and CR and LF", LENGTH, post(b"Content-Length: 5", body=b"\0\r\n\n\r"),
           method=b"POST", body=b"\0\r\n\n\r"),
    served("a get with a body", "RFC 9110 9.3.1", lines(GET, HOST, b"Content-Length: 2",
           body=b"ab"), body=b"ab"),
    served("a delete with a body", "RFC 9110 9.3.5",
           lines(b"DELETE /here HTTP/1.1", HOST, b"Content-Length: 2", body=b"ab"),
           method=b"DELETE", body=b"ab"),
    served("chunks", CHUNKS, chunked(b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"), method=b"POST",
           body=b"abcde", has={b"content-length": [b"5"]}, lacks=(b"transfer-encoding",)),
    served("no chunk but the last", CHUNKS, chunked(b"0\r\n\r\n"), method=b"POST"),
    served("a last chunk of zeros", CHUNKS, chunked(b"1\r\na\r\n000\r\n\r\n"), method=b"POST",
           body=b"a"),
    served("sizes in capitals and with zeros", CHUNKS,
           chunked(b"00A\r\n0123456789\r\n0\r\n\r\n"), method=b"POST", body=b"0123456789"),
    served("a chunk that looks like the last", CHUNKS, chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
           method=b"POST", body=b"0\r\n\r\n"),
    served("chunk extensions", "RFC 9112 7.1.1",
           chunked(b'2;a;b=c;d="e f";g="\\""\r\nab\r\n0;h\r\n\r\n'), method=b"POST", body=b"ab"),
    served("trailers are dropped", "RFC 9112 7.1.2",
           chunked(b"1\r\na\r\n0\r\nX-Trailer: y\r\nAuthorization: z\r\n\r\n", b"Trailer: x"),
           method=b"POST", body=b"a", lacks=(b"x-trailer", b"authorization", b"trailer")),
    served("chunked in capitals", "RFC 9112 7",
           lines(POST, HOST, b"Transfer-Encoding: CHUNKED", body=b"1\r\na\r\n0\r\n\r\n"),
           method=b"POST", body=b"a"),
    served("chunked between a tab and a space", VALUE,
           lines(POST, HOST, b"Transfer-Encoding:\tchunked ", body=b"1\r\na\r\n0\r\n\r\n"),
           method=b"POST", body=b"a"),
    served("a length between a tab and a space", VALUE, lines(POST, HOST, b"Content-Length:\t1 ",
           body=b"a"), method=b"POST", body=b"a"),
    served("chunks of a get", LENGTH, lines(GET, HOST, CHUNKED, body=b"1\r\na\r\n0\r\n\r\n"),
           body=b"a"),
    served("what is expected is asked for", "RFC 9110 10.1.1",
           post(b"Expect: 100-continue", b"Content-Length: 2", body=b"ab"),
           method=b"POST", body=b"ab", lacks=(b"expect",)),
    served("what is expected without a body", "RFC 9110 10.1.1", get(b"Expect: 100-continue"),
           lacks=(b"expect",)),
]  # fmt: skip

CONNECTIONS: Final = [
    served("keep-alive said", KEPT, get(b"Connection: keep-alive")),
    served("close said", "RFC 9112 9.6", get(b"Connection: close"), kept=False),
    served("close in capitals", "RFC 9112 9.6", get(b"Connection: CLOSE"), kept=False),
    served("close in a list", "RFC 9112 9.6", get(b"Connection: keep-alive, close"), kept=False),
    served("close in a second line", "RFC 9112 9.6", get(b"Connection: x", b"Connection: close"),
           kept=False),
    served("close with a body", "RFC 9112 9.6",
           post(b"Connection: close", b"Content-Length: 2", body=b"ab"),
           method=b"POST", body=b"ab", kept=False),
    served("HTTP/1.0", KEPT, lines(b"GET /here HTTP/1.0", HOST), kept=False),
    served("HTTP/1.0 without a host", "RFC 9112 3.2", lines(b"GET /here HTTP/1.0"), kept=False),
    served("HTTP/1.0 with a length", LENGTH,
           lines(b"POST /here HTTP/1.0", b"Content-Length: 2", body=b"ab"),
           method=b"POST", body=b"ab", kept=False),
    # RFC 9112 9.3 leaves it to the server; what stands between would have to know it too.
    served("HTTP/1.0 and keep-alive", KEPT,
           lines(b"GET /here HTTP/1.0", HOST, b"Connection: keep-alive")),
    served("an upgrade to HTTP/2 is left aside", "RFC 9110 7.8",
           get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"),
           kept=False, lacks=(b"upgrade", b"http2-settings")),
    served("an upgrade to WebSocket is left aside", "RFC 9110 7.8",
           get(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
           kept=False, lacks=(b"upgrade",)),
]  # fmt: skip

# What the RFC lets a server take or refuse. Nothing comes of it: what is passed on is rebuilt.
TOLERATED: Final = [
    served("two spaces after the method", "RFC 9112 3", lines(b"GET  /here HTTP/1.1", HOST),
           or_refused=(400,)),
    served("two spaces before the version", "RFC 9112 3", lines(b"GET /here  HTTP/1.1", HOST),
           or_refused=(400,)),
    served("a lone CR before it", "RFC 9112 2.2", b"\r" + get(), or_refused=(400,)),
    served("a lone LF before it", "RFC 9112 2.2", b"\n" + get(), or_refused=(400,)),
    served("three empty lines before it", "RFC 9112 2.2", b"\r\n\r\n\r\n" + get(),
           or_refused=(400,)),
    served("an expectation nobody knows", "RFC 9110 10.1.1", get(b"Expect: x"), lacks=(b"expect",),
           or_refused=(400, 417)),
    served("two expectations", "RFC 9110 10.1.1", get(b"Expect: 100-continue, x"),
           lacks=(b"expect",), or_refused=(400, 417)),
    served("what is expected by HTTP/1.0", "RFC 9110 10.1.1",
           lines(b"POST /here HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 1", body=b"a"),
           method=b"POST", body=b"a", kept=False, lacks=(b"expect",), or_refused=(400, 417)),
    served("escapes that are none", "RFC 3986 2.1", absolute(b"/here/%zz%"), target=b"/here/%zz%",
           or_refused=(400,)),
    served("chunked before a tab", VALUE,
           lines(POST, HOST, b"Transfer-Encoding: chunked\t", body=b"1\r\na\r\n0\r\n\r\n"),
           method=b"POST", body=b"a", or_refused=(400,)),
    # llhttp takes RTSP/1.0 for HTTP/1.0 and does not tell.
    served("RTSP/1.0", "RFC 9112 2.3", lines(b"GET /here RTSP/1.0", HOST), kept=False,
           or_refused=(400, 505)),
]  # fmt: skip

SERVED: Final[list[Case]] = [*REQUEST_LINES, *HEADERS, *BODIES, *CONNECTIONS, *TOLERATED]
