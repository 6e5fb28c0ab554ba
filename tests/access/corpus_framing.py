"""Bodies whose end two readers could see in two places. Each has a request hidden behind it."""

from __future__ import annotations

from typing import Final

from tests.access.cases import CHUNKED, GET, HOST, SMUGGLED, Case, chunked, lines, post, refused

LENGTH: Final = "RFC 9112 6.3"
CODING: Final = "RFC 9112 6.1"
CHUNKS: Final = "RFC 9112 7.1"
DIGITS: Final = "RFC 9110 8.6"
END: Final = b"0\r\n\r\n"
MUCH: Final = b"0" * 100_000


def length(*values: bytes) -> bytes:
    """A body of four bytes with these Content-Length lines."""
    said = [b"Content-Length: " + value for value in values]
    return post(*said, body=b"abcd" + SMUGGLED)


def coding(*values: bytes) -> bytes:
    """A body in chunks with these Transfer-Encoding lines."""
    return codings(*[b"Transfer-Encoding: " + value for value in values])


def codings(*given: bytes) -> bytes:
    return post(*given, body=b"1\r\na\r\n" + END + SMUGGLED)


def chunk(raw: bytes) -> bytes:
    return chunked(raw + END + SMUGGLED)


def trailer(raw: bytes) -> bytes:
    return chunked(b"1\r\na\r\n0\r\n" + raw + b"\r\n" + SMUGGLED)


LENGTHS: Final = [
    refused("the same length twice", LENGTH, length(b"4", b"4")),
    refused("two lengths", LENGTH, length(b"4", b"0")),
    refused("three lengths", LENGTH, length(b"0", b"4", b"0")),
    refused("a list of the same length", LENGTH, length(b"4, 4")),
    refused("a list of lengths", LENGTH, length(b"4, 0")),
    refused("a list without spaces", LENGTH, length(b"4,0")),
    refused("a length with a comma", LENGTH, length(b"4,")),
    refused("a length with a plus", DIGITS, length(b"+4")),
    refused("a negative length", DIGITS, length(b"-4")),
    refused("a negative length of nothing", DIGITS, length(b"-0")),
    refused("a length in hex", DIGITS, length(b"0x4")),
    refused("a length of hex digits", DIGITS, length(b"a")),
    refused("a length with an underscore", DIGITS, length(b"0_4")),
    refused("a length with a point", DIGITS, length(b"4.0")),
    refused("a length with an exponent", DIGITS, length(b"4e0")),
    refused("a length with a space", DIGITS, length(b"0 4")),
    refused("a length with a tab", DIGITS, length(b"0\t4")),
    refused("a length with a semicolon", DIGITS, length(b"4;a=b")),
    refused("a length in quotes", DIGITS, length(b'"4"')),
    refused("a length of letters", DIGITS, length(b"four")),
    refused("a length of other digits", DIGITS, length("４".encode())),
    refused("a length of Latin-1 digits", DIGITS, length(b"\xb2")),
    refused("an empty length", DIGITS, post(b"Content-Length:", body=SMUGGLED)),
    refused("an empty length and one more", DIGITS, post(b"Content-Length:", b"Content-Length: 4",
            body=b"abcd" + SMUGGLED)),
    refused("a length and a vertical tab", DIGITS, length(b"4\x0b")),
    refused("a length and a NUL", DIGITS, length(b"4\0")),
    refused("a length of 2^64 and 4", DIGITS, length(b"18446744073709551620"), 400, 413),
    refused("a length of 2^63", DIGITS, length(b"9223372036854775808"), 400, 413),
    refused("a length of 40 digits", DIGITS, length(b"9" * 40), 400, 413),
    refused("a length of 5,000 digits", DIGITS, length(b"9" * 5000), 400, 413),
    refused("a length beyond the limit", "RFC 9110 15.5.14", length(b"100000000"), 413),
    refused("a space before a length's colon", "RFC 9112 5.1",
            post(b"Content-Length : 4", body=b"abcd" + SMUGGLED)),
    refused("a length on a folded line", "RFC 9112 5.2",
            post(b"Content-Length:", b" 4", body=b"abcd" + SMUGGLED)),
    refused("a length behind a lone CR", "RFC 9112 2.2",
            post(b"X: y\rContent-Length: 4", body=b"abcd" + SMUGGLED)),
    refused("a length behind a lone LF", "RFC 9112 2.2",
            post(b"X: y\nContent-Length: 4", body=b"abcd" + SMUGGLED)),
    refused("a length after a NUL", "RFC 9110 5.5",
            post(b"\0Content-Length: 4", body=b"abcd" + SMUGGLED)),
]  # fmt: skip

CODINGS: Final = [
    refused("a length and a coding", CODING, codings(b"Content-Length: 6", CHUNKED)),
    refused("a coding and a length", CODING, codings(CHUNKED, b"Content-Length: 6")),
    refused("a length of nothing and a coding", CODING, codings(b"Content-Length: 0", CHUNKED)),
    refused("two lengths around a coding", CODING,
            codings(b"Content-Length: 6", CHUNKED, b"Content-Length: 6")),
    refused("a length and a coding nobody knows", CODING,
            codings(b"Content-Length: 6", b"Transfer-Encoding: x")),
    refused("a length and a coding of nothing", CODING,
            codings(b"Content-Length: 6", b"Transfer-Encoding:")),
    refused("a length and a coding in a get", CODING,
            lines(GET, HOST, b"Content-Length: 0", CHUNKED, body=END + SMUGGLED)),
    refused("a coding in HTTP/1.0", CODING,
            lines(b"POST /here HTTP/1.0", HOST, CHUNKED, body=END + SMUGGLED)),
    refused("a coding and a length in HTTP/1.0", CODING,
            lines(b"POST /here HTTP/1.0", HOST, CHUNKED, b"Content-Length: 5",
                  b"Connection: keep-alive", body=END + SMUGGLED)),
    refused("a coding nobody knows", CODING, coding(b"x"), 400, 501),
    refused("gzip alone", CODING, coding(b"gzip"), 400, 501),
    refused("gzip before chunked", CODING, coding(b"gzip, chunked"), 400, 501),
    refused("gzip after chunked", CODING, coding(b"chunked, gzip")),
    refused("gzip in a line before", CODING, coding(b"gzip", b"chunked"), 400, 501),
    refused("gzip in a line after", CODING, coding(b"chunked", b"gzip")),
    refused("identity", CODING, coding(b"identity"), 400, 501),
    refused("identity before chunked", CODING, coding(b"identity, chunked"), 400, 501),
    refused("identity after chunked", CODING, coding(b"chunked, identity")),
    refused("identity in a line before", CODING, coding(b"identity", b"chunked"), 400, 501),
    refused("identity in a line after", CODING, coding(b"chunked", b"identity")),
    refused("chunked twice", CODING, coding(b"chunked, chunked")),
    refused("chunked in two lines", CODING, coding(b"chunked", b"chunked")),
    refused("chunked and a comma", CODING, coding(b"chunked,")),
    refused("a comma and chunked", CODING, coding(b",chunked")),
    refused("an empty coding", CODING, codings(b"Transfer-Encoding:")),
    refused("an empty coding and chunked", CODING, codings(b"Transfer-Encoding:", CHUNKED)),
    refused("xchunked", CODING, coding(b"xchunked"), 400, 501),
    refused("chunkedx", CODING, coding(b"chunkedx"), 400, 501),
    refused("half of chunked", CODING, coding(b"chunk"), 400, 501),
    refused("chunked in quotes", CODING, coding(b'"chunked"'), 400, 501),
    refused("chunked in other quotes", CODING, coding(b"'chunked'"), 400, 501),
    refused("chunked with a parameter", CODING, coding(b"chunked;q=1"), 400, 501),
    refused("chunked and a semicolon", CODING, coding(b"chunked;"), 400, 501),
    refused("chunked with a space", CODING, coding(b"chun ked"), 400, 501),
    refused("chunked and a word", CODING, coding(b"chunked x"), 400, 501),
    refused("chunked after a vertical tab", CODING, coding(b"\x0bchunked")),
    refused("chunked before a vertical tab", CODING, coding(b"chunked\x0b")),
    refused("chunked after a form feed", CODING, coding(b"\x0cchunked")),
    refused("chunked after a NUL", CODING, coding(b"\0chunked")),
    refused("chunked before a NUL", CODING, coding(b"chunked\0")),
    refused("chunked before a wide space", CODING, coding(b"chunked\xa0"), 400, 501),
    refused("chunked with a wide letter", CODING, coding("chun\u212aed".encode()), 400, 501),
    refused("a space before a coding's colon", "RFC 9112 5.1",
            codings(b"Transfer-Encoding : chunked")),
    refused("a tab before a coding's colon", "RFC 9112 5.1",
            codings(b"Transfer-Encoding\t: chunked")),
    refused("a space before a coding's name", "RFC 9112 5.2", codings(b" Transfer-Encoding: x")),
    refused("a space for a coding's hyphen", "RFC 9112 5.1",
            codings(b"Transfer Encoding: chunked")),
    refused("a NUL before a coding's name", "RFC 9112 5.1",
            codings(b"\0Transfer-Encoding: chunked")),
    refused("a NUL after a coding's name", "RFC 9112 5.1",
            codings(b"Transfer-Encoding\0: chunked")),
    refused("a wide letter in a coding's name", "RFC 9112 5.1",
            codings(b"Transfer-Enc\xf6ding: chunked")),
    refused("a coding on a folded line", "RFC 9112 5.2",
            codings(b"Transfer-Encoding:", b" chunked")),
    refused("a coding with a fold after", "RFC 9112 5.2", codings(CHUNKED, b" x")),
    refused("a coding behind a lone CR", "RFC 9112 2.2", codings(b"X: y\r" + CHUNKED)),
    refused("a coding behind a lone LF", "RFC 9112 2.2", codings(b"X: y\n" + CHUNKED)),
    refused("a coding before a lone LF", "RFC 9112 2.2", codings(CHUNKED + b"\nX: y")),
    refused("a coding and an upgrade", "RFC 9110 7.8",
            codings(b"Connection: upgrade", b"Upgrade: x", CHUNKED)),
    refused("a length and an upgrade", "RFC 9110 7.8",
            codings(b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 6")),
]  # fmt: skip

SIZES: Final = [
    refused("a size with 0x", CHUNKS, chunk(b"0x1\r\na\r\n")),
    refused("a size with an underscore", CHUNKS, chunk(b"0_1\r\na\r\n")),
    refused("a size with a plus", CHUNKS, chunk(b"+1\r\na\r\n")),
    refused("a size with a minus", CHUNKS, chunk(b"-1\r\na\r\n")),
    refused("a last chunk with a minus", CHUNKS, chunked(b"-0\r\n\r\n" + SMUGGLED)),
    refused("a size after a space", CHUNKS, chunk(b" 1\r\na\r\n")),
    refused("a size after a tab", CHUNKS, chunk(b"\t1\r\na\r\n")),
    refused("a size before a space", CHUNKS, chunk(b"1 \r\na\r\n")),
    refused("a size before a tab", CHUNKS, chunk(b"1\t\r\na\r\n")),
    refused("a size with a space", CHUNKS, chunk(b"0 1\r\na\r\n")),
    refused("a size of letters", CHUNKS, chunk(b"g\r\na\r\n")),
    refused("a size with h", CHUNKS, chunk(b"1h\r\na\r\n")),
    refused("an empty size", CHUNKS, chunk(b"\r\na\r\n")),
    refused("a size in quotes", CHUNKS, chunk(b'"1"\r\na\r\n')),
    refused("a size with a comma", CHUNKS, chunk(b"1,1\r\na\r\n")),
    refused("a size with a point", CHUNKS, chunk(b"1.0\r\na\r\n")),
    refused("a size and a NUL", CHUNKS, chunk(b"1\0\r\na\r\n")),
    refused("a size of 2^64 and 1", CHUNKS, chunk(b"10000000000000001\r\na\r\n"), 400, 413),
    refused("a size of 20 digits", CHUNKS, chunk(b"f" * 20 + b"\r\na\r\n"), 400, 413),
    refused("a size of 100,000 zeros and 1", CHUNKS, chunk(MUCH + b"1\r\na\r\n"), 400, 413),
]

CHUNK_LINES: Final = [
    refused("a size line that ends with LF", CHUNKS, chunk(b"1\na\r\n")),
    refused("a size line that ends with CR", CHUNKS, chunk(b"1\ra\r\n")),
    refused("a size line that ends with two CR", CHUNKS, chunk(b"1\r\r\na\r\n")),
    refused("data that end with LF", CHUNKS, chunk(b"1\r\na\n")),
    refused("data that end with CR", CHUNKS, chunk(b"1\r\na\r")),
    refused("data that end with two CR", CHUNKS, chunk(b"1\r\na\r\r\n")),
    refused("data that end with nothing", CHUNKS, chunk(b"1\r\na")),
    refused("more data than the size", CHUNKS, chunk(b"1\r\nab\r\n")),
    refused("less data than the size", CHUNKS, chunk(b"2\r\na\r\n")),
    refused("a last chunk that ends with LF", CHUNKS, chunked(b"0\n\r\n" + SMUGGLED)),
    refused("a body that ends with LF", CHUNKS, chunked(b"0\r\n\n" + SMUGGLED)),
    refused("a body that ends with two LF", CHUNKS, chunked(b"0\n\n" + SMUGGLED)),
    refused("a body that ends with a word", CHUNKS, chunked(b"0\r\nx\r\n" + SMUGGLED)),
    refused("an extension with a lone LF", "RFC 9112 7.1.1", chunk(b"1;a\nb\r\na\r\n")),
    refused("an extension that ends with LF", "RFC 9112 7.1.1", chunk(b"1;a\na\r\n")),
    refused("an extension with a lone CR", "RFC 9112 7.1.1", chunk(b"1;a\rb\r\na\r\n")),
    refused("an extension with a NUL", "RFC 9112 7.1.1", chunk(b"1;a\0\r\na\r\n")),
    refused("an extension without a semicolon", "RFC 9112 7.1.1", chunk(b"1a=b\r\na\r\n")),
    refused("an extension in a bracket", "RFC 9112 7.1.1", chunk(b"1(a)\r\na\r\n")),
    refused("an extension with a lone quote", "RFC 9112 7.1.1", chunk(b'1;a="b\r\na\r\n')),
    refused("an extension of 100 KB", "RFC 9112 7.1.1", chunk(b"1;" + MUCH + b"\r\na\r\n"),
            400, 413),
    refused("a quoted extension of 100 KB", "RFC 9112 7.1.1",
            chunk(b'1;a="' + MUCH + b'"\r\na\r\n'), 400, 413),
    refused("20,000 chunks with extensions", "RFC 9112 7.1.1",
            chunk(b"1;abcdefg\r\na\r\n" * 20_000), 400, 413),
    refused("chunks beyond the limit", "RFC 9110 15.5.14",
            chunk((b"4000\r\n" + b"a" * 0x4000 + b"\r\n") * 5), 413),
    refused("a trailer without a colon", "RFC 9112 7.1.2", trailer(b"X\r\n")),
    refused("a trailer without a name", "RFC 9112 7.1.2", trailer(b": y\r\n")),
    refused("a trailer with a space before its colon", "RFC 9112 7.1.2", trailer(b"X : y\r\n")),
    refused("a folded trailer", "RFC 9112 7.1.2", trailer(b"X: y\r\n z\r\n")),
    refused("a trailer with a NUL", "RFC 9112 7.1.2", trailer(b"X: y\0\r\n")),
    refused("a trailer that ends with LF", "RFC 9112 7.1.2", trailer(b"X: y\n")),
    refused("a trailer with a lone CR", "RFC 9112 7.1.2", trailer(b"X: y\rZ: z\r\n")),
    refused("a trailer of 100 KB", "RFC 6585 5", trailer(b"X: " + MUCH + b"\r\n"), 400, 431),
    refused("10,000 trailers", "RFC 6585 5", trailer(b"X: y\r\n" * 10_000), 431),
]  # fmt: skip

FRAMING: Final[list[Case]] = [*LENGTHS, *CODINGS, *SIZES, *CHUNK_LINES]
