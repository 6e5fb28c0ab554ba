""".env.example says what the settings say."""

from __future__ import annotations

from pathlib import Path

from infra.env_example import lines

PROJECT = Path(__file__).resolve().parents[2]


def test_every_setting_is_in_env_example_as_its_field_describes_it() -> None:
    written = (PROJECT / ".env.example").read_text().splitlines()
    assert written == list(lines()), "run: python -m infra.env_example > .env.example"
