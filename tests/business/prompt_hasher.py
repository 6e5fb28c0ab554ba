"""A hasher that gives way to nobody: python -m tests.business.prompt_hasher

Beside other tests one that gives way takes seconds for a hash, and whoever was to wait for a second
after three wrong passwords has done so by the fourth.
"""

from __future__ import annotations

import sys
from typing import Final
from unittest.mock import patch

from services.business import hasher

COMMAND: Final = (sys.executable, "-m", "tests.business.prompt_hasher")

if __name__ == "__main__":
    with patch.object(hasher, "give_way"):
        hasher.main()
