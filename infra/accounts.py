"""`tercet account`: accounts of merchants and operators, from the command line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeVar, get_args

import typer

from infra.unanswered import UNANSWERED, why_unanswered
from services.business import account_keeping
from services.business.account_keeping import AccountRefused
from services.business.passwords import Passwords
from services.data.accounts import Account, Role, select_accounts
from services.data.pool import Pool
from services.data.sources import Primary
from services.problems import OutcomeUnknown
from services.settings import DatabaseSettings, SettingsError, load
from services.telemetry import configure_logging

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Accounts with a role: make, list, disable.",
)

# Exit codes, beside 0. The last two are EX_UNAVAILABLE and EX_CONFIG of sysexits.h.
REFUSED: Final = 1
UNAVAILABLE: Final = 69
NOT_CONFIGURED: Final = 78


class RoleChoice(StrEnum):
    """The roles, as typer wants them."""

    CUSTOMER = "customer"
    MERCHANT = "merchant"
    OPERATOR = "operator"


DataDir = Annotated[
    Path | None,
    typer.Option(
        readable=False,
        help="Folder of a local stack; without it the TERCET_… variables name the database if "
        "TERCET_PRIMARY_DSN is set, else the stack in .tercet does.",
    ),
]
Email = Annotated[str, typer.Argument(metavar="EMAIL", help="Its address.")]


@app.command("create")
def create_command(
    email: Email,
    role: Annotated[RoleChoice, typer.Option(help="What it may do.")] = RoleChoice.MERCHANT,
    data_dir: DataDir = None,
) -> None:
    """Make an account with a password at random, which is shown this once."""

    async def work(primary: Primary) -> account_keeping.MadeAccount:
        passwords = Passwords()
        try:
            return await account_keeping.make_account(primary, passwords, email, _role(role))
        finally:
            await passwords.aclose()

    made = _run(work, data_dir)
    typer.echo(f"{_line(made.account)}\npassword, shown this once: {made.password}")


@app.command("role")
def role_command(
    email: Email,
    role: Annotated[RoleChoice, typer.Argument(help="What it may do from now on.")],
    data_dir: DataDir = None,
) -> None:
    """Give an account another role, at once."""
    typer.echo(_line(_run(lambda p: account_keeping.change_role(p, email, _role(role)), data_dir)))


@app.command("disable")
def disable_command(email: Email, data_dir: DataDir = None) -> None:
    """End all sessions of an account at once; nobody logs in to it any more."""
    account = _run(lambda primary: account_keeping.disable(primary, email), data_dir)
    typer.echo(f"{account.email}: disabled, and its sessions have ended")


@app.command("enable")
def enable_command(email: Email, data_dir: DataDir = None) -> None:
    """Let an account log in again."""
    account = _run(lambda primary: account_keeping.enable(primary, email), data_dir)
    typer.echo(f"{account.email}: can log in")


@app.command("list")
def list_command(
    customers: Annotated[bool, typer.Option("--customers", help="Customers, too.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show the accounts that may do more than customers."""
    roles = [role for role in get_args(Role) if customers or role != "customer"]
    for account in _run(lambda primary: select_accounts(primary, roles), data_dir):
        typer.echo(_line(account))


def _role(choice: RoleChoice) -> Role:
    role: Role = choice.value
    return role


def _line(account: Account) -> str:
    state = "" if account.disabled_at is None else f", disabled {account.disabled_at:%Y-%m-%d}"
    return f"{account.email}  {account.role}, since {account.created_at:%Y-%m-%d}{state}"


def _run(work: Callable[[Primary], Awaitable[T]], data_dir: Path | None) -> T:
    """What `work` returns; what can go wrong outside of us is a line and an exit code."""
    if data_dir is not None:
        from infra.local.stack import environment_of

        os.environ.update(environment_of(data_dir))
    try:
        return asyncio.run(_with_primary(work))
    except AccountRefused as error:
        raise _failed(str(error), REFUSED) from None
    except OutcomeUnknown:
        raise _failed(
            "the answer was lost: look at the list before trying again", UNAVAILABLE
        ) from None
    except SettingsError as error:
        raise _failed(str(error), NOT_CONFIGURED) from None
    except UNANSWERED as error:
        raise _failed(why_unanswered(error), UNAVAILABLE) from None


async def _with_primary(work: Callable[[Primary], Awaitable[T]]) -> T:
    async with _primary() as primary:
        return await work(primary)


@asynccontextmanager
async def _primary() -> AsyncIterator[Primary]:
    settings = load(DatabaseSettings)
    configure_logging("account", settings.model_copy(update={"log_level": "ERROR"}))
    pool = Pool(
        "primary",
        settings.primary_dsn,
        password=settings.app_password.get_secret_value(),
        size=2,
        statement_timeout_ms=settings.statement_timeout_ms,
    )
    try:
        yield Primary(pool)
    finally:
        await pool.close()


def _failed(message: str, code: int) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(code)
