"""The secrets of a stack: made at random, one file each, never made twice."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

NAMES: Final = (
    "internal_secret",
    "cookie_secret",
    "webhook_secret",
    "provider_secret",
    "operator_token",
    "owner_password",
    "app_password",
    "read_password",
    "superuser_password",
    "replication_password",
    "valkey_password",
    "events_password",
)
RANDOM_BYTES: Final = 32  # 256 random bits, 43 characters of URL-safe base64


def path_of(folder: Path, name: str) -> Path:
    """The file of one secret, named as pydantic-settings and Docker secrets expect it."""
    return folder / f"tercet_{name}"


def make_secrets(folder: Path) -> list[str]:
    """Make the secrets that are not there yet and return their names; never overwrite one."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
    made = []
    for name in NAMES:
        path = path_of(folder, name)
        if path.exists():
            continue
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(RANDOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        made.append(name)
    return made


def read_secret(folder: Path, name: str) -> str:
    """One secret of the stack's own."""
    return path_of(folder, name).read_text().strip()


def faults(folder: Path) -> list[str]:
    """What is wrong with the secrets in `folder`, in plain words; empty when nothing is."""
    from pydantic import TypeAdapter, ValidationError

    from services.settings import Secret

    check = TypeAdapter(Secret)
    found = []
    if folder.stat().st_mode & 0o077:
        found.append(f"{folder} can be opened by other users: chmod 700 {folder}")
    for name in NAMES:
        path = path_of(folder, name)
        if not path.exists():
            found.append(f"{path} is missing; `tercet up` makes it")
            continue
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            found.append(f"{path} can be read by other users: chmod 600 {path}")
        try:
            check.validate_python(read_secret(folder, name))
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            found.append(f"secret {name} ({path}) {reason}")
    return found
