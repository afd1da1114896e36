"""An operator's workspace."""

import pytest

from tests.support.operator import ota


@pytest.fixture
def workspace(tmp_path, capsys):
    """A new one."""
    folder = tmp_path / "operator"
    assert ota(folder, "init", "--vendor", "test.example") == 0
    capsys.readouterr()
    return folder
