"""Makes the list of passwords that are too common: `python -m infra.common_passwords`.

From the frequency list of zxcvbn, which orders what was found in leaks. What is shorter than a
password may be is left out: it is refused by its length.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

from services.business.passwords import LENGTH_MIN


def lines() -> Iterator[str]:
    """The lines of services/business/common_passwords.txt."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # type: ignore[import-untyped]  # it has none

    version = importlib.metadata.version("zxcvbn")
    yield f"# Common passwords, the most common first: from zxcvbn {version} (MIT License),"
    yield "# https://github.com/dwolfhub/zxcvbn-python, by `python -m infra.common_passwords`."
    for password in FREQUENCY_LISTS["passwords"]:
        if len(password) >= LENGTH_MIN:
            yield password


if __name__ == "__main__":
    print("\n".join(lines()))
