"""`make bench-login`: logins on short connections, and pages and payments beside too many of them.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from loadtests import options
from loadtests.bench_payments import measure, read
from loadtests.login_works import WORKS

# Enough that business always has a password to hash, and few enough that nearly all are let in.
CONNECTIONS: Final = 4


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser_of("bench_login", __doc__)
    return read(parser, arguments, WORKS, connections=CONNECTIONS)


def main(arguments: Sequence[str] | None = None) -> int:
    return measure("bench-login", read_options(arguments), WORKS)


if __name__ == "__main__":
    sys.exit(main())
