"""`tercet doctor`: what is missing or wrong on this machine, in plain words."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

from infra.local import secret_files, servers
from infra.local.addresses import LOOPBACK, is_free
from infra.local.folder import ClosedFolderError, DataFolder
from infra.local.heaviest import heaviest, table
from infra.local.status import current

Finding = tuple[bool, str]  # whether it is as it should be, and what it is

DEFAULT_PORT: Final = 8080
# The servers' logs of changes may grow to 1 GB, the standby's slot may keep 2 more.
DISK_NEEDED_BYTES: Final = 1 << 30
MEMORY_NEEDED_BYTES: Final = 700 << 20  # the whole stack at rest stays below
SHARED_MEMORY_NEEDED_BYTES: Final = 32 << 20  # parallel work of two PostgreSQL servers
FILES_NEEDED: Final = 1024  # access keeps a file open for every client
WELL: Final = ("running", "done", "skipped", "external")
CONNECT_TIMEOUT_S: Final = 2.0


def examine(folder: DataFolder) -> int:
    """Print every finding; 1 when something is wrong."""
    wrong = 0
    said = set()
    for check in (_python, _programs, _machine, _data_folder, _secrets, _given_servers, _stack):
        for fine, words in _findings(check, folder):
            if words in said:
                continue  # a closed folder is in the way of several checks
            said.add(words)
            print(f"{'ok   ' if fine else 'WRONG'}  {words}")
            wrong += not fine
    print(f"\n{wrong} thing{'' if wrong == 1 else 's'} wrong" if wrong else "\nnothing is wrong")
    _say_heaviest(folder)
    return 1 if wrong else 0


def _say_heaviest(folder: DataFolder) -> None:
    """What the servers of a running stack spend their time on."""
    try:
        parts = current(folder)["parts"] if folder.is_locked() else []
    except (PermissionError, ClosedFolderError):
        return
    running = {part["name"]: part["address"] for part in parts if part["pid"]}
    addresses = {name: running[name] for name in ("primary", "standby") if name in running}
    if not addresses:
        return
    try:
        statements = asyncio.run(heaviest(folder, addresses))
    except OSError as error:
        print(f"\nwhich statements are heaviest is not known: {error}")
        return
    print("\nthe statements that took most of the servers' time:")
    print("\n".join(table(statements)))


def _findings(
    check: Callable[[DataFolder], Iterator[Finding]], folder: DataFolder
) -> Iterator[Finding]:
    try:
        yield from check(folder)
    except (PermissionError, ClosedFolderError):
        yield False, folder.closed()


def _python(_: DataFolder) -> Iterator[Finding]:
    version = platform.python_version()
    yield sys.version_info >= (3, 11), f"Python {version} at {sys.executable} (3.11 or newer)"
    try:
        yield True, f"tercet {metadata.version('tercet')}"
    except metadata.PackageNotFoundError:
        yield False, "the project is not installed into this Python: run `make setup`"


def _programs(folder: DataFolder) -> Iterator[Finding]:
    yield _runs("PostgreSQL", lambda: servers.postgres_bin() / "postgres")
    yield _runs("Valkey", servers.valkey_server)
    kept = folder.primary / "PG_VERSION"
    if kept.exists():
        major = kept.read_text().strip()
        yield _same_major(major), f"the data folder was made by PostgreSQL {major}"
    if os.geteuid() == 0:
        how = (
            "in a user namespace"
            if servers.namespaces_work()
            else f"as {servers.UNPRIVILEGED_USER} (this machine refuses user namespaces)"
        )
        yield True, f"this is root: PostgreSQL will run {how}"


def _runs(name: str, find: Callable[[], Path]) -> Finding:
    try:
        program = find()
        return True, f"{name}: {_version_of(program)} ({program})"
    except (servers.MissingError, OSError, subprocess.SubprocessError) as error:
        return False, f"{name} can not be run: {error}"


def _version_of(program: Path) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _same_major(major: str) -> bool:
    try:
        return f" {major}." in _version_of(servers.postgres_bin() / "postgres")
    except (servers.MissingError, OSError, subprocess.SubprocessError):
        return False


def _machine(folder: DataFolder) -> Iterator[Finding]:
    place = next(path for path in (folder.root, *folder.root.parents) if path.exists())
    free_bytes = shutil.disk_usage(place).free
    yield free_bytes > DISK_NEEDED_BYTES, f"{free_bytes >> 20} MiB free on the disk of {place}"
    memory_bytes = psutil.virtual_memory().available
    yield (
        memory_bytes > MEMORY_NEEDED_BYTES or folder.is_locked(),
        (f"{memory_bytes >> 20} MiB of memory available (the stack needs 700)"),
    )
    # Looked at, not written to.
    shared = Path("/dev/shm")  # noqa: S108  # nosec B108
    if sys.platform == "linux":
        shared_bytes = shutil.disk_usage(shared).free if shared.is_dir() else 0
        yield (
            shared_bytes > SHARED_MEMORY_NEEDED_BYTES,
            f"{shared_bytes >> 20} MiB free in {shared}",
        )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield files >= FILES_NEEDED, f"{files} files may be open at once (ulimit -n)"
    if not folder.is_locked():
        if is_free(LOOPBACK, DEFAULT_PORT):
            yield True, f"port {DEFAULT_PORT} is free"
        else:
            yield (
                False,
                f"port {DEFAULT_PORT} is taken; another one: {folder.command('up --port 8090')}",
            )


def _data_folder(folder: DataFolder) -> Iterator[Finding]:
    root = folder.root
    if not root.exists():
        yield True, f"the data folder {root} will be made by the first `up`"
        return
    usable = os.access(root, os.R_OK | os.W_OK | os.X_OK)
    yield usable, f"the data folder {root} {'can' if usable else 'can not'} be written to"
    owner = root.stat().st_uid
    yield (
        owner == os.geteuid(),
        f"the data folder belongs to user id {owner}, this is {os.geteuid()}",
    )


def _secrets(folder: DataFolder) -> Iterator[Finding]:
    if not folder.secrets.exists():
        return
    try:
        found = secret_files.faults(folder.secrets)
    except OSError as error:
        found = [f"the secrets can not be read: {error}"]
    yield from ((False, fault) for fault in found)
    if not found:
        yield True, f"the {len(secret_files.NAMES)} secrets are strong, and closed to other users"


def _given_servers(_: DataFolder) -> Iterator[Finding]:
    for variable in (
        "TERCET_PRIMARY_DSN",
        "TERCET_STANDBY_DSNS",
        "TERCET_VALKEY_URL",
        "TERCET_PROVIDER_URL",
    ):
        for address in filter(None, os.environ.get(variable, "").split(",")):
            parts = urlsplit(address.strip())
            ports = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}
            host, port = parts.hostname or "", parts.port or ports.get(parts.scheme, 5432)
            try:
                socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
                yield True, f"{variable}: {host}:{port} can be reached"
            except OSError as error:
                yield False, f"{variable}: {host}:{port} can not be reached: {error}"


def _stack(folder: DataFolder) -> Iterator[Finding]:
    if not folder.is_locked():
        yield True, "no stack is running on this data folder"
        return
    state = current(folder)
    yield state["phase"] == "ready", f"the stack at {state['url']} is {state['phase']}"
    for part in state["parts"]:
        words = f"{part['name']}: {part['state']}"
        words += f", {part['detail']}" if part["detail"] else ""
        if part["restarts"]:
            words += f"; restarted {part['restarts']} times, last {part['last_exit']}"
        if part["state"] not in WELL:
            words += f"; see {folder.log / part['name']}.log"
        yield part["state"] in WELL, words
    used_bytes = state["memory_bytes"]
    yield True, f"the stack takes {used_bytes >> 20} MiB of memory"
