"""`tercet up` and `tercet down`: the data folder taken, the stack run under a guard and shown."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import sys
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import psutil

from infra.local import secret_files
from infra.local.folder import AlreadyRunningError, DataFolder
from infra.local.parts import Part
from infra.local.processes import end_all, guard, same_process, started_at, wait_until
from infra.local.promote import Promotions
from infra.local.refusals import RefusedError, free_port_of, require_own
from infra.local.servers import MissingError
from infra.local.showcase import showcase
from infra.local.stack import Stack, StackOptions
from infra.local.supervisor import StartError, Supervisor
from infra.local.terminal import Terminal, greeting, plain_line
from infra.process import EXIT_BAD_SETTINGS

# Exit codes of `tercet up`, beside 0 (stopped when asked to) and 1 (could not start).
EXIT_ALREADY_RUNNING: Final = 3
EXIT_MISSING: Final = 5

# A supervisor that was killed leaves its guard to clear up, which takes this long at most.
LOCK_WAIT_S: Final = 6.0
DETACHED_START_S: Final = 600.0  # a million products are loaded in that
STOP_WAIT_S: Final = 8.0
TERMINAL_POLL_S: Final = 0.5


def up(options: StackOptions, *, detach: bool) -> int:
    """Start the stack and stay with it (or leave it running, when detached): the exit code."""
    started = time.monotonic()
    folder = DataFolder.at(options.data_dir)
    try:
        require_own(folder)
        folder.create()
        lock = _lock(folder)
        options = replace(options, port=free_port_of(options, folder))
        previous = folder.read_state()
        end_all(_leftovers(previous))
        folder.state_file.unlink(missing_ok=True)
        _prepare_secrets(folder)
        stack = Stack(options, previous)
    except RefusedError as error:
        return _refuse(str(error), error.exit_code)
    except MissingError as error:
        return _refuse(str(error), EXIT_MISSING)
    except OSError as error:
        return _refuse(f"the data folder {folder.root} can not be used: {error}", 1)
    if not detach:
        return _guarded(stack, started, detached=False)
    if os.fork() == 0:
        _leave_terminal(folder)
        os._exit(_guarded(stack, started, detached=True))
    os.close(lock)  # the fork holds it on
    return _follow(folder, started)


def down(folder: DataFolder) -> int:
    """Stop the stack that runs on a folder, and whatever of it does not stop by itself."""
    state = folder.running_state()
    supervisor = same_process(state["supervisor"]["pid"], state["supervisor"]["created"])
    if supervisor is not None:
        supervisor.send_signal(signal.SIGTERM)
    if not wait_until(lambda: not folder.is_locked(), STOP_WAIT_S):
        if supervisor is not None:
            supervisor.kill()  # its guard ends the rest
        wait_until(lambda: not folder.is_locked(), STOP_WAIT_S)
        end_all(_leftovers(state))
    if folder.is_locked():
        print(f"tercet down: something still holds {folder.lock_file}", file=sys.stderr)
        return 1
    print(_stopped(folder))
    return 0


def _stopped(folder: DataFolder) -> str:
    return f"stopped; data kept in {folder.root}"


def _lock(folder: DataFolder) -> int:
    """Take the folder; wait while a stack on it is still being stopped or cleared up."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return folder.lock()
        except AlreadyRunningError:
            if not _is_ending(folder.read_state()) or time.monotonic() > deadline:
                raise RefusedError(_already_running(folder), EXIT_ALREADY_RUNNING) from None
            time.sleep(0.05)


def _is_ending(state: Mapping[str, Any]) -> bool:
    supervisor = state.get("supervisor")
    if not supervisor:
        return False
    gone = same_process(supervisor["pid"], supervisor["created"]) is None
    return gone or state.get("phase") in ("stopping", "stopped")


def _prepare_secrets(folder: DataFolder) -> None:
    secret_files.make_secrets(folder.secrets)
    weak = secret_files.faults(folder.secrets)
    if weak:
        raise RefusedError("\n".join(weak), EXIT_BAD_SETTINGS)


def _already_running(folder: DataFolder) -> str:
    state = folder.read_state()
    pid = state.get("supervisor", {}).get("pid", "unknown")
    where = f" at {state['url']}" if "url" in state else ""
    return (
        f"a stack is already running on {folder.root}{where} (supervisor pid {pid}): "
        f"use it, stop it with `{folder.command('down')}`, or choose another folder with --data-dir"
    )


def _refuse(message: str, exit_code: int) -> int:
    print(f"tercet up: {message}", file=sys.stderr)
    return exit_code


def _leftovers(state: Mapping[str, Any]) -> list[psutil.Process]:
    """Processes of an earlier run that are still there."""
    found = []
    for entry in (state.get("supervisor"), *state.get("parts", [])):
        if entry and entry.get("pid") and entry.get("created"):
            found.append(same_process(entry["pid"], entry["created"]))
    return [process for process in found if process is not None]


def _leave_terminal(folder: DataFolder) -> None:
    os.setsid()
    log = os.open(
        folder.log / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # the log has every line already
    os.dup2(log, 2)


def _guarded(stack: Stack, started: float, *, detached: bool) -> int:
    return guard(
        lambda guard_pipe: asyncio.run(
            _Session(stack, started, guard_pipe, detached=detached).run()
        ),
        lambda: _leftovers(stack.folder.read_state()),
    )


def _follow(folder: DataFolder, started: float) -> int:
    """Show a detached start line by line until it is ready or has failed."""
    shown: dict[str, str] = {}
    deadline = started + DETACHED_START_S
    while time.monotonic() < deadline:
        state = folder.read_state()
        for part in state.get("parts", []):
            if part["state"] not in ("waiting", shown.get(part["name"])):
                shown[part["name"]] = part["state"]
                print(f"{time.monotonic() - started:6.2f} s  {plain_line(part)}", flush=True)
        if state.get("phase") == "ready":
            print(state["greeting"])
            return 0
        if "error" in state:
            return _refuse(state["error"], int(state["exit_code"]))
        if not folder.is_locked():
            log = folder.log / "supervisor.log"
            return _refuse(f"the stack ended while it started; see {log}", 1)
        time.sleep(0.05)
    return _refuse("the stack is not ready after ten minutes; it goes on trying", 1)


class _Session:
    """One run of the stack: from the first part to the last, inside the supervisor's process."""

    def __init__(self, stack: Stack, started: float, guard_pipe: int, *, detached: bool) -> None:
        self._stack = stack
        self._detached = detached
        self._started = started
        self._guard_pipe = guard_pipe
        self._phase = "starting"
        self._notes: dict[str, Any] = {}
        self._stop = asyncio.Event()
        self._log = _event_log(stack.folder)
        self._terminal = Terminal(started, self._parts)
        self._promotions = Promotions(stack.cluster, stack.folder, self._log)
        self._supervisor = Supervisor(
            stack.parts, log_folder=stack.folder.log, cwd=stack.folder.root, changed=self._changed
        )

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        # The pipe closes when the guard dies: then nobody would clear up behind us.
        loop.add_reader(self._guard_pipe, self._guard_gone)
        self._promotions.listen(lambda: self._changed(None))
        exit_code = 0
        try:
            self._write_state()
            exit_code = await self._until_stopped()
        except StartError as error:
            exit_code = error.exit_code
            self._notes.update(error=str(error), exit_code=exit_code)
            self._log.error("%s", error)
        finally:
            self._phase = "stopping"
            await self._promotions.stop()
            await self._supervisor.stop()
            self._phase = "stopped"
            self._changed(None)
            self._terminal.close()
        with suppress(OSError):  # the terminal may be gone
            if "error" in self._notes:
                print(f"tercet up: {self._notes['error']}", file=sys.stderr)
            else:
                print(_stopped(self._stack.folder), flush=True)
        return exit_code

    async def _until_stopped(self) -> int:
        stop = asyncio.create_task(self._stop.wait())
        watch = asyncio.create_task(self._watch_terminal())
        work = asyncio.create_task(self._run_parts())
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        watch.cancel()
        if not stop.done():
            stop.cancel()
            await work  # raises what went wrong
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return 0

    async def _watch_terminal(self) -> None:
        """Stop when the terminal is closed.

        Its SIGHUP goes to the leader of the session alone: a shell passes it on, make does not.
        """
        terminals = [number for number in (0, 1, 2) if os.isatty(number)]
        poll = select.poll()
        for number in terminals:
            poll.register(number, 0)  # only what is always told: an error, a hang-up
        while terminals:
            await asyncio.sleep(TERMINAL_POLL_S)
            if any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0)):
                self._log.info("the terminal was closed")
                self._stop.set()
                return

    async def _run_parts(self) -> None:
        await self._start()
        await self._supervisor.wait()

    async def _start(self) -> None:
        await self._supervisor.start()
        self._supervisor.measure()
        product = await self._a_product()
        took_s = time.monotonic() - self._started
        self._notes["greeting"] = (
            "The servers are up; the variables that name them are told by: "
            + self._stack.folder.command("status --json")
            if self._stack.options.servers_only
            else greeting(
                self._stack.url,
                self._stack.folder,
                product,
                detached=self._detached,
                mailbox_url=self._stack.mailbox_url,
            )
        )
        self._notes["start_seconds"] = round(took_s, 2)
        self._phase = "ready"
        self._changed(None)
        self._log.info("ready after %.2f s at %s", took_s, self._stack.url)
        self._terminal.greet(self._notes["greeting"])

    async def _a_product(self) -> dict[str, str] | None:
        """A product of this shop for the lines to try; None when it has none."""
        if self._stack.options.servers_only:
            return None
        place = urllib.parse.urlsplit(self._stack.url)
        host, port = place.hostname or "", place.port or 80
        try:
            return await showcase(host, port, tls=self._stack.tls)
        except (OSError, LookupError, ValueError, TypeError) as error:
            self._log.warning("no product to show: %r", error)
            return None

    def _parts(self) -> list[dict[str, Any]]:
        return [part.as_dict() for part in self._stack.parts]

    def _changed(self, part: Part | None) -> None:
        if part is not None:
            self._log.info("%s", plain_line(part.as_dict()))
        self._write_state()
        self._terminal.update()

    def _write_state(self) -> None:
        state = {
            "phase": self._phase,
            "url": self._stack.url,
            "mailbox_url": self._stack.mailbox_url,
            "supervisor": {"pid": os.getpid(), "created": started_at(os.getpid())},
            "guard": {"pid": os.getppid(), "created": started_at(os.getppid())},
            "environment": self._stack.variables(),
            "parts": self._parts(),
            **self._notes,
        }
        try:
            self._stack.folder.write_state(state)
        except OSError as error:  # a full disk ends no shop: what is written next is right again
            self._log.error("the state could not be written: %s", error)

    def _guard_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._guard_pipe)
        self._stop.set()


def _event_log(folder: DataFolder) -> logging.Logger:
    """The supervisor's own log: what started, died and was restarted, and when."""
    log = logging.getLogger("tercet.supervisor")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(folder.log / "supervisor.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log
