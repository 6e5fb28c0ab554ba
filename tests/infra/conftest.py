"""A data folder that was made once, for tests that need one of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running_stack import running_stack


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes a data folder with the servers' data in it: a copy takes a tenth of a first start."""
    made = tmp_path_factory.mktemp("made") / "data"
    with running_stack(made, "--servers-only"):
        pass

    def copy(to: Path) -> Path:
        return Path(shutil.copytree(made, to, symlinks=True))

    return copy
