"""S31: what is locked is above every floor, came with hashes, and from no address of its own."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from packaging.version import Version

PROJECT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = [*sorted(PROJECT.glob("*.lock")), *sorted(PROJECT.glob("infra/**/*.lock"))]
LOCKS.append(PROJECT / "infra/local/uv.txt")
PIN: Final = re.compile(r"([a-z0-9][a-z0-9._-]*)(?:\[[a-z,-]+\])?==([^ ;\\]+)( ; .+)?")
HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}")
CVE: Final = re.compile(r"CVE-\d{4}-\d{4,}")


class Floor(NamedTuple):
    package: str
    version: Version
    why: str


class Locked(NamedTuple):
    """A requirement of a lock file, its lines joined, without comments."""

    package: str
    version: Version
    options: list[str]


def floors() -> list[Floor]:
    known = tomllib.loads((PROJECT / "infra/known_bad.toml").read_text())
    return [Floor(name, Version(bad["floor"]), bad["why"]) for name, bad in known.items()]


def locked(path: Path) -> Iterator[Locked]:
    """Every requirement; a line that is none fails."""
    lines = [line for line in path.read_text().splitlines() if not line.strip().startswith("#")]
    for text in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not text.strip():
            continue
        requirement, *options = re.split(r"\s+(?=--)", text.strip())
        pin = PIN.fullmatch(requirement)
        assert pin is not None, (
            f"{path.name}: {requirement!r} is not pinned by ==, or has an address"
        )
        yield Locked(pin[1], Version(pin[2]), options)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_locked_package_is_pinned_with_hashes_and_has_no_address(path: Path) -> None:
    packages = list(locked(path))
    assert packages
    for package in packages:
        assert package.options, f"{package.package} has no hash"
        for option in package.options:
            assert HASH.fullmatch(option), f"{package.package}: {option}"
    assert "://" not in path.read_text()


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_nothing_known_to_be_bad_is_locked(path: Path) -> None:
    versions = {package.package: package.version for package in locked(path)}
    bad = {
        floor.package: floor.why
        for floor in floors()
        if floor.package in versions and versions[floor.package] < floor.version
    }
    assert bad == {}


def test_every_floor_names_its_advisory_and_a_package_that_is_locked() -> None:
    names = {package.package for path in LOCKS for package in locked(path)}
    for floor in floors():
        assert CVE.search(floor.why), floor.package
        assert floor.package in names, f"{floor.package} is locked nowhere: remove its floor"


@pytest.mark.parametrize(
    "line",
    [
        "jinja2 @ https://example.org/jinja2.whl --hash=sha256:" + "0" * 64,
        "--index-url https://example.org/simple",
        "jinja2>=3.1.6 --hash=sha256:" + "0" * 64,
        "-e .",
    ],
)
def test_a_lock_with_an_address_or_a_range_would_be_noticed(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.lock"
    path.write_text(line + "\n")
    with pytest.raises(AssertionError):
        list(locked(path))
