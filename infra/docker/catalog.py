"""The one-shot `catalog` of compose: the sample catalog for an empty shop, nothing for any other.

TERCET_PRODUCTS says how many products; 0 leaves the shop empty. A load is one transaction, so a
shop is empty or has all of it, whenever this was interrupted.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final

from infra.catalog import NOT_CONFIGURED, UNAVAILABLE
from infra.catalog import app as catalog_app
from services.data.catalog_load import LoadFailed, connected
from services.settings import MigrateSettings, SettingsError, load

DEFAULT_PRODUCTS: Final = "10000"  # what `tercet up` loads
SEED: Final = "1"  # the same shop on every machine


async def has_products() -> bool:
    """Whether the database of TERCET_OWNER_DSN has any."""
    settings = load(MigrateSettings)
    password = settings.owner_password.get_secret_value()
    async with connected(settings.owner_dsn, password) as connection:
        return bool(await connection.fetchval("select exists (select from products)"))


def main() -> int:
    """Load the catalog where there is none; the exit codes are those of `tercet catalog`."""
    products = os.environ.get("TERCET_PRODUCTS") or DEFAULT_PRODUCTS
    if products == "0":
        print("catalog: none asked for")
        return 0
    try:
        if asyncio.run(has_products()):
            print("catalog: there are products, nothing to do")
            return 0
    except SettingsError as error:
        print(f"the settings can not be used:\n{error}", file=sys.stderr)
        return NOT_CONFIGURED
    except LoadFailed as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    catalog_app(["generate", "--products", products, "--seed", SEED])  # ends with its own code
    return 0


if __name__ == "__main__":
    sys.exit(main())
