"""What has to be so before access is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.access_process import require_held
from loadtests.peers import PYTHON
from loadtests.programs import BrokenRunError, running


@pytest.mark.faults
async def test_a_page_that_is_not_held_is_not_measured_as_one(tmp_path: Path) -> None:
    """The stand-in for business in place of access: it answers, but never says `hit`."""
    async with running(await PYTHON.launch(tmp_path), None, tmp_path / "log") as server:
        await require_held(server, "/products/red-shirt", held=False)
        with pytest.raises(BrokenRunError, match=r"200 with \d+ bytes, no hit in memory"):
            await require_held(server, "/products/red-shirt", within_s=0.2)
        with pytest.raises(BrokenRunError, match="404"):
            await require_held(server, "/nowhere", held=False, within_s=0.2)
