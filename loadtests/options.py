"""The options of the programs here: those that several have, and what their values may be."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.result import RESULTS


def parser_of(program: str, about: str | None) -> argparse.ArgumentParser:
    """Of python -m loadtests.PROGRAM, with the folder that results go to."""
    parser = argparse.ArgumentParser(prog=f"python -m loadtests.{program}", description=about)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    return parser


def add_works(
    parser: argparse.ArgumentParser, works: Collection[str], *, rounds: int = 5, of: str = ""
) -> None:
    """Which of them, and how often each. of: what the rounds are, where that is to be said."""
    known = list(works)
    parser.add_argument("--only", type=names(known), default=known, metavar=",".join(known))
    parser.add_argument("--rounds", type=whole, default=rounds, help=of or None)


def add_generator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--generator", choices=["auto", "wrk", "own"], default="auto")


def add_setting(parser: argparse.ArgumentParser, of: str) -> None:
    """Settings of Tercet, TERCET_…=VALUE; of: whose."""
    parser.add_argument(
        "--setting",
        type=setting,
        action="append",
        default=[],
        metavar="TERCET_…=VALUE",
        help=f"of {of} instead of its default, recorded in the result; may be given again",
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    help_text = "of a running stack to use instead of a new one"
    parser.add_argument("--data-dir", type=Path, help=help_text)


def read(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    quick: Mapping[str, object],
) -> argparse.Namespace:
    """The options; quick: the defaults with QUICK=1 in the environment."""
    if is_quick():
        parser.set_defaults(**quick)
    return parser.parse_args(arguments)


def is_quick() -> bool:
    return os.environ.get("QUICK", "") not in ("", "0")


def names(known: list[str]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {known}")
        return names

    return parse


def setting(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given or not name.startswith("TERCET_"):
        raise argparse.ArgumentTypeError("must look like TERCET_PAGE_POOL_SIZE=8")
    return name, value


def whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("can not be negative")
    return value


def command(
    make: str, chosen: argparse.Namespace, parser: argparse.ArgumentParser, without: Sequence[str]
) -> str:
    """The command line that does the same again: `make`, and what was chosen unlike its default."""
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {_text(value)}")
        for name, value in vars(chosen).items()
        if name not in without and value != parser.get_default(name)
    ]
    return f'{make} ARGS="{" ".join(words)}"' if words else make


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
