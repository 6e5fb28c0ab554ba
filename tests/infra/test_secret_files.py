"""Secrets: random, closed to others, and never made twice."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from infra.local import secret_files
from infra.local.secret_files import NAMES, faults, make_secrets, path_of


def test_the_first_start_makes_every_secret_and_closes_it_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder) == list(NAMES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    values = [path_of(folder, name).read_text() for name in NAMES]
    assert len(set(values)) == len(NAMES)
    assert all(len(value) == 43 for value in values)
    assert all(stat.S_IMODE(path_of(folder, name).stat().st_mode) == 0o600 for name in NAMES)
    assert faults(folder) == []


def test_a_secret_that_is_there_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    make_secrets(folder)
    kept = path_of(folder, "app_password").read_text()
    path_of(folder, "cookie_secret").unlink()
    assert make_secrets(folder) == ["cookie_secret"]
    assert path_of(folder, "app_password").read_text() == kept


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_text(""), "at least 32 characters"),
        (lambda path: path.write_text("changeme" * 6), "default or easily guessed"),
        (lambda path: path.chmod(0o644), "can be read by other users"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_weak_open_or_missing_secret_is_named(tmp_path: Path, spoil: object, words: str) -> None:
    assert callable(spoil)
    folder = tmp_path / "secrets"
    make_secrets(folder)
    spoil(path_of(folder, "operator_token"))
    (fault,) = faults(folder)
    assert "operator_token" in fault
    assert words in fault


def test_the_files_have_the_names_that_the_settings_read(tmp_path: Path) -> None:
    assert path_of(tmp_path, "app_password").name == "tercet_app_password"
    assert secret_files.RANDOM_BYTES >= 32
