"""Options that several programs have, and the command that does the same again."""

from __future__ import annotations

import pytest

from loadtests import options


def test_a_command_says_what_was_chosen_unlike_its_default() -> None:
    parser = options.parser_of("growth", None)
    parser.add_argument("--seconds", type=options.positive, default=2.0)
    parser.add_argument("--own-stack", action="store_true")
    parser.add_argument("--only", type=options.names(["a", "b"]), default=["a", "b"])

    def repeated(*arguments: str) -> str:
        chosen = parser.parse_args(arguments)
        return options.command("make growth", chosen, parser, without=("results",))

    assert repeated("--results", "elsewhere", "--seconds", "2") == "make growth"
    said = repeated("--only", "b", "--own-stack", "--seconds", "3")
    assert said == 'make growth ARGS="--seconds 3.0 --own-stack --only b"'


def test_quick_is_a_default_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(*arguments: str) -> int:
        parser = options.parser_of("small", None)
        options.add_works(parser, ["a"])
        return int(options.read(parser, arguments, {"rounds": 1}).rounds)

    monkeypatch.setenv("QUICK", "0")
    assert chosen() == 5
    monkeypatch.setenv("QUICK", "1")
    assert chosen() == 1
    assert chosen("--rounds", "3") == 3
