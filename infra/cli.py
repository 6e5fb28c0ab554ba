"""The command `tercet`: the whole stack on this machine, and one command for each process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from infra.local.folder import (
    DEFAULT_DATA_DIR,
    ClosedFolderError,
    DataFolder,
    NotRunningError,
)

app = typer.Typer(
    name="tercet",
    help="Tercet: a three-tier e-commerce backend. `tercet up` starts all of it on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DataDir = Annotated[
    Path,
    # Whether it can be read is for us to say, in the same words wherever it comes from.
    typer.Option(
        "--data-dir", readable=False, help="Folder that holds all the data of a local stack."
    ),
]
# Commands of modules of their own get their arguments as they are, --help too.
PASS_ON: dict[str, Any] = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "help_option_names": [],
}


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tercet {version('tercet')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Say which one."),
    ] = False,
) -> None:
    """What there is to say before a command."""


@app.command()
def up(  # noqa: PLR0917  # typer reads a command's options from its parameters
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the shop; 0: any.")] = 8080,
    host: Annotated[str, typer.Option(help="Address the shop listens on.")] = "127.0.0.1",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    products: Annotated[
        int, typer.Option(min=0, help="Size of the sample catalog, loaded into an empty shop.")
    ] = 10_000,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when all is ready; `down` stops it.")
    ] = False,
    servers_only: Annotated[
        bool,
        typer.Option("--servers-only", help="Only PostgreSQL, standby, Valkey and migrations."),
    ] = False,
    standbys: Annotated[
        int,
        typer.Option(min=1, max=8, help="From 2 on a COMMIT waits for one; see `promote`."),
    ] = 1,
) -> None:
    """Start the whole stack: PostgreSQL, standby, Valkey, provider, business, workers, access.

    Exit codes: 0 stopped when asked to, 1 could not start, 3 already running on this data
    folder, 4 the port is taken, 5 something to install, 78 a secret or setting is not usable.
    """
    from infra.local.stack import StackOptions
    from infra.local.up import up as start

    options = StackOptions(data_dir, host, port, products, servers_only, standbys)
    raise typer.Exit(start(options, detach=detach))


@app.command()
def down(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop the stack that runs on a data folder; its data is kept."""
    from infra.local.up import down as stop

    raise typer.Exit(_on_running_stack(lambda: stop(DataFolder.at(data_dir))))


@app.command()
def status(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Show every part: state, process id, address, memory. Exit code 1 when none runs."""
    from infra.local.status import current, show

    raise typer.Exit(
        _on_running_stack(lambda: show(current(DataFolder.at(data_dir)), as_json=as_json))
    )


@app.command()
def promote(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    force: Annotated[
        bool, typer.Option("--force", help="Also where what was acknowledged may be lost.")
    ] = False,
) -> None:
    """Make the most advanced standby the primary of a stack that has two, without losing a write.

    Exit code 1 when none may take over: it did not stream, or another may have more.
    """
    from infra.local.promote import promote as ask

    raise typer.Exit(_on_running_stack(lambda: ask(DataFolder.at(data_dir), force=force)))


@app.command()
def doctor(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Say what is missing or wrong on this machine. Exit code 1 when something is."""
    from infra.local.doctor import examine

    raise typer.Exit(examine(DataFolder.at(data_dir)))


@app.command()
def timeouts(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT of /metrics of business or a worker, in place of the stack's."
        ),
    ] = None,
) -> None:
    """Show how long each dependency takes (p50, p99, p99.9) beside the longest we wait for it."""
    from infra.timeouts import addresses_of
    from infra.timeouts import show as show_timeouts

    raise typer.Exit(
        _on_running_stack(lambda: show_timeouts(metrics or addresses_of(DataFolder.at(data_dir))))
    )


@app.command()
def secrets(
    folder: Annotated[Path, typer.Argument(help="Where the files go; what is there is kept.")],
) -> None:
    """Make the random secrets of a stack, one file each; never overwrites one."""
    from infra.local.secret_files import make_secrets

    made = make_secrets(folder)
    print(f"{len(made)} secrets made in {folder}")


@app.command()
def migrate(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Bring the schema up to date: the database of TERCET_OWNER_DSN, or of the local stack."""
    from infra.process import run

    def work() -> int:
        if not os.environ.get("TERCET_OWNER_DSN"):
            from infra.local.stack import environment_of

            os.environ.update(environment_of(data_dir))
        return run("migrate")

    raise typer.Exit(_on_running_stack(work))


@app.command()
def access() -> None:
    """Run the access tier, set up by TERCET_… variables alone."""
    _run_process("access")


@app.command()
def business() -> None:
    """Run the business tier, set up by TERCET_… variables alone."""
    _run_process("business")


@app.command()
def worker(
    name: Annotated[str, typer.Argument(help="one of the workers", metavar="NAME")],
) -> None:
    """Run one worker, set up by TERCET_… variables alone."""
    from infra.process import WORKERS

    if name not in WORKERS:
        raise typer.BadParameter(f"is one of {', '.join(WORKERS)}", param_hint="NAME")
    _run_process("worker", name)


@app.command()
def provider() -> None:
    """Run the sandbox payment provider, set up by TERCET_… variables alone."""
    _run_process("provider")


@app.command()
def mailbox() -> None:
    """Run the mailbox, which takes all mails of a stack and shows them on a page."""
    _run_process("mailbox")


@app.command(context_settings=PASS_ON)
def catalog(context: typer.Context) -> None:
    """Import a catalog from files, or generate one: `tercet catalog --help`."""
    from infra import catalog as commands

    _pass_on(commands.app, "catalog", context.args)


@app.command(context_settings=PASS_ON)
def stock(context: typer.Context) -> None:
    """Receive or adjust stock, as journal entries: `tercet stock --help`."""
    from infra import catalog as commands

    _pass_on(commands.stock_app, "stock", context.args)


@app.command(context_settings=PASS_ON)
def account(context: typer.Context) -> None:
    """Make, list and disable accounts of merchants and operators: `tercet account --help`."""
    from infra import accounts as commands

    _pass_on(commands.app, "account", context.args)


@app.command(context_settings=PASS_ON)
def prove(context: typer.Context) -> None:
    """Check every invariant of the data: `tercet prove --help`."""
    from infra import prove as commands

    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(commands.prove)
    _pass_on(alone, "prove", context.args)


@app.command(context_settings=PASS_ON)
def reconcile(context: typer.Context) -> None:
    """Compare the provider's own books with ours: `tercet reconcile --help`."""
    from infra import reconcile as commands

    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(commands.reconcile)
    _pass_on(alone, "reconcile", context.args)


def _pass_on(commands: typer.Typer, name: str, arguments: list[str]) -> None:
    try:
        if name not in ("prove", "reconcile"):
            arguments = arguments or ["--help"]
            _reach_local_stack(arguments)
        commands(args=arguments, prog_name=f"tercet {name}")
    except (NotRunningError, ClosedFolderError) as error:
        print(f"tercet {name}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _reach_local_stack(arguments: list[str]) -> None:
    """Where neither a variable nor an option names a database, the default stack's is meant."""
    named = any(word == "--help" or word.startswith("--data-dir") for word in arguments)
    given = os.environ.get("TERCET_PRIMARY_DSN") or os.environ.get("TERCET_OWNER_DSN")
    if not named and not given:
        from infra.local.stack import environment_of

        os.environ.update(environment_of(DEFAULT_DATA_DIR))


def _run_process(kind: str, *arguments: str) -> NoReturn:
    """Become that process: without the command line's imports it takes a third of the memory."""
    program = [sys.executable, "-m", "infra.process", kind, *arguments]
    os.execv(sys.executable, program)  # noqa: S606  # no shell, and no name is looked up


def _on_running_stack(work: Callable[[], int]) -> int:
    try:
        return work()
    except NotRunningError as error:
        if "--json" in sys.argv:
            print(json.dumps({"phase": "stopped", "parts": []}))
        print(f"tercet: {error}", file=sys.stderr)
        return 1
    except ClosedFolderError as error:
        print(f"tercet: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    app()
