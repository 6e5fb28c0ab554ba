"""One process of Tercet, run until it is told to stop: `python -m infra.process business`.

The same as `tercet business`, without the command line's own imports: 0.1 s and 10 MB each. Access
and business are run by a parent that imports next to nothing (services/parent.py), so this module
does not either.
"""

from __future__ import annotations

import sys
from typing import Final

from services.child import Child

EXIT_BAD_SETTINGS: Final = 78  # EX_CONFIG of sysexits.h
WORKERS: Final = ("outbox", "reconcile", "expiry", "webhooks", "live", "mails", "rollups")


def run(kind: str, worker: str = "") -> int:
    """Run access, business, provider, mailbox, a worker or the migrations; the exit code."""
    # httpx and structlog import rich where they find it, though a server draws no tables:
    # 0.2 s of start and 4 MB for every process.
    sys.modules["rich"] = None  # type: ignore[assignment]
    if kind in ("access", "business"):
        from services.parent import Parent

        return Parent(kind, lambda child: _serve(kind, "", child)).run()
    return _serve(kind, worker)


def _serve(kind: str, worker: str, child: Child | None = None) -> int:
    from services.settings import SettingsError

    try:
        _serve_by(kind, worker, child)
    except SettingsError as error:
        print(f"the settings can not be used:\n{error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    return 0


def _serve_by(kind: str, worker: str, child: Child | None) -> None:
    from services.settings import load

    if kind == "access":
        from services.access.server import serve as serve_access
        from services.settings import AccessSettings

        serve_access(load(AccessSettings), child)
    elif kind == "business":
        from services.business.server import serve as serve_business
        from services.settings import BusinessSettings

        serve_business(load(BusinessSettings), child)
    elif kind == "worker":
        from services.business.workers import serve as serve_worker
        from services.settings import WorkerSettings

        serve_worker(worker, load(WorkerSettings))
    elif kind == "provider":
        from services.business.providers.sandbox import serve as serve_provider
        from services.settings import ProviderSettings

        serve_provider(load(ProviderSettings))
    elif kind == "mailbox":
        from infra.mailbox import serve as serve_mailbox
        from services.settings import MailboxSettings

        serve_mailbox(load(MailboxSettings))
    elif kind == "migrate":
        from migrations.run import upgrade

        upgrade()
    else:
        raise ValueError(f"no such process: {kind}")


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
