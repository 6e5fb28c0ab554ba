"""The one-shot `secrets` of compose: makes the secrets once, and hands each reader only its own.

They lie in one volume, a folder for each reader that only its group can open:
`python -m infra.docker.hand_out FOLDER`. A secret changed below FOLDER/made is handed out anew.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.local.secret_files import make_secrets, path_of, read_secret

MADE: Final = "made"  # all of them, for root alone


@dataclass(frozen=True)
class Reader:
    """A kind of container: the group it runs as, and the secrets it needs."""

    group: int
    names: tuple[str, ...]


# The groups are those of `user:` in docker-compose.yml; 999 is postgres in its official image.
READERS: Final[Mapping[str, Reader]] = {
    "access": Reader(
        10001, ("internal_secret", "cookie_secret", "valkey_password", "events_password")
    ),
    "business": Reader(
        10002,
        (
            "internal_secret",
            "cookie_secret",
            "provider_secret",
            "webhook_secret",
            "app_password",
            "read_password",
            "valkey_password",
            "events_password",
        ),
    ),
    "owner": Reader(10003, ("owner_password", "operator_token")),
    "provider": Reader(10004, ("provider_secret", "webhook_secret")),
    "mailbox": Reader(10007, ()),  # needs none
    "valkey": Reader(10005, ("valkey_password",)),
    "events": Reader(10006, ("events_password",)),
    "postgres": Reader(
        999,
        (
            "superuser_password",
            "replication_password",
            "owner_password",
            "app_password",
            "read_password",
        ),
    ),
}


def hand_out(folder: Path, readers: Mapping[str, Reader] = READERS) -> list[str]:
    """Make what is missing and copy to each reader; returns the names of the secrets made.

    All stays owned by whoever runs this (root, which then needs no capability but CHOWN).
    """
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    made = make_secrets(folder / MADE)
    for name, reader in readers.items():
        own = folder / name
        own.mkdir(exist_ok=True)
        os.chown(own, -1, reader.group)
        own.chmod(0o750)
        for secret in reader.names:
            _write(path_of(own, secret), read_secret(folder / MADE, secret), reader.group)
    return made


def _write(path: Path, text: str, group: int) -> None:
    """Under its name the file is complete and closed to others, or it is not there."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, 0o640)
    fresh.rename(path)


if __name__ == "__main__":
    print(f"{len(hand_out(Path(sys.argv[1])))} secrets made, all handed out")
