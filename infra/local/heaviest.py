"""The statements that took most of the servers' time, by the names that they have in the code."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import asyncpg

from infra.local.folder import DataFolder
from infra.local.postgres import SUPERUSER
from infra.local.secret_files import read_secret
from services import data

HEAVIEST: Final = 10
ASK_TIMEOUT_S: Final = 5.0
TEXT_LENGTH: Final = 60

SELECT_HEAVIEST: Final = """
    select query, calls, total_exec_time as total_ms
    from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database())
        and calls > 0 and query !~ 'pg_stat_statements'
    order by total_exec_time desc limit $1
"""
# pg_stat_statements shows constants as parameters, with numbers of their own.
VALUE: Final = re.compile(r"\$\d+|'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b")


class Statement(NamedTuple):
    """What one server has spent on one statement since it was last asked to forget."""

    name: str
    server: str
    calls: int
    total_ms: float

    @property
    def mean_ms(self) -> float:
        return self.total_ms / self.calls


async def heaviest(folder: DataFolder, addresses: dict[str, str]) -> list[Statement]:
    """The heaviest first, of all servers (name -> host:port); OSError: one can not be asked."""
    password = read_secret(folder.secrets, "superuser_password")
    names, found = dict(_names()), list[Statement]()
    for server, address in addresses.items():
        dsn = f"postgresql://{SUPERUSER}@{address}/tercet"
        try:
            connection = await asyncpg.connect(dsn, password=password, timeout=ASK_TIMEOUT_S)
            try:
                rows = await connection.fetch(SELECT_HEAVIEST, HEAVIEST, timeout=ASK_TIMEOUT_S)
            finally:
                await connection.close()
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise OSError(f"{server} can not be asked: {error!r}") from error
        found += [
            Statement(
                names.get(_form(row["query"]), _shortened(row["query"])),
                server,
                row["calls"],
                row["total_ms"],
            )
            for row in rows
        ]
    return sorted(found, key=lambda statement: -statement.total_ms)[:HEAVIEST]


def table(statements: list[Statement]) -> Iterator[str]:
    yield f"{'total ms':>10} {'calls':>9} {'mean ms':>8}  server   statement"
    for one in statements:
        numbers = f"{one.total_ms:10.1f} {one.calls:9} {one.mean_ms:8.3f}"
        yield f"{numbers}  {one.server:8} {one.name}"


def _names() -> Iterator[tuple[str, str]]:
    """The constants of services.data by the form of their text: products.SELECT_PRODUCT."""
    for module in pkgutil.iter_modules(data.__path__):
        for name, value in vars(importlib.import_module(f"services.data.{module.name}")).items():
            if name.isupper() and isinstance(value, str):
                yield _form(value), f"{module.name}.{name}"


def _form(sql: str) -> str:
    return " ".join(VALUE.sub("?", sql).split())


def _shortened(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= TEXT_LENGTH else text[:TEXT_LENGTH] + "…"
