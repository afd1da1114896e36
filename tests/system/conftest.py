"""What the system tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import Lab, open_lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A board, an operator and a broker; the board is not started yet."""
    opened = open_lab(tmp_path)
    yield opened
    opened.close()
