"""Writes .env.example from the fields of the settings: `python -m infra.env_example`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from services import settings

KINDS: Final = (
    settings.ProcessSettings,
    settings.AccessSettings,
    settings.BusinessSettings,
    settings.WorkerSettings,
    settings.ProviderSettings,
    settings.MailboxSettings,
    settings.MigrateSettings,
    settings.CatalogSettings,
)
HEAD: Final = """\
# Every setting of every process, made from services/settings.py by `python -m infra.env_example`.
# A line that is commented out shows the default. These are variables of the environment; nothing
# reads a file of them by itself. `tercet up` needs none: it makes the secrets and chooses the
# addresses. What is set in its environment holds for the processes it starts, but for the addresses
# they listen on (--port, --host) and the folder of secrets, which are its own.
#
# A secret may be a variable, or a file named like it in small letters (tercet_internal_secret)
# in the folder TERCET_SECRETS_DIR. Empty, short and well-known secrets are refused.
"""
OF_UP: Final = (
    ("TERCET_SECRETS_DIR", "folder of the secret files; `tercet secrets FOLDER` makes them"),
    ("TERCET_PG_BIN", "up: folder of initdb, postgres, pg_basebackup, psql; default: the wheel's"),
    ("TERCET_VALKEY_SERVER", "up: the valkey-server program; default: the wheel's"),
    (
        "TERCET_EVENTS_MEMORY",
        "up: memory of the log of events; default: 256mb",
    ),
    ("TERCET_ROOT_MODE", "up as root: `nobody` runs PostgreSQL as that user, without a namespace"),
    ("TERCET_READY_FILE", "touched by a worker when it is ready, for whoever supervises it"),
)


def lines() -> Iterator[str]:
    """The lines of the file."""
    yield from HEAD.splitlines()
    seen: set[str] = set()
    for kind in KINDS:
        fresh = {name: f for name, f in kind.model_fields.items() if name not in seen}
        seen.update(fresh)
        if fresh:
            yield ""
            yield f"# -- {(kind.__doc__ or '').strip().rstrip('.')}"
        for name, field in fresh.items():
            yield f"# {field.description}"
            yield _assignment(name, field)
    yield ""
    yield "# -- Not settings of a process: where things are."
    for variable, words in OF_UP:
        yield f"# {words}"
        yield f"#{variable}="


def _assignment(name: str, field: FieldInfo) -> str:
    variable = f"TERCET_{name.upper()}"
    if field.default_factory is not None or field.default in (None, PydanticUndefined):
        return f"#{variable}="
    value = field.default
    shown = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return f"#{variable}={shown.lower() if isinstance(value, bool) else shown}"


if __name__ == "__main__":
    print("\n".join(lines()))
