"""What mutation testing says cannot be noticed is still there, and why."""

from pathlib import Path

import pytest

from tests import mutants
from tests.mutants import ROOT, explained, mutants_of, stale

SOURCE = '''"""Text."""
LIMIT = 5
class Box:
    def put(self, many):
        if many > LIMIT:
            raise ValueError(f"{many[:40]} is too much")
        return many + 1, many + 1
'''


@pytest.fixture
def keys(monkeypatch, tmp_path):
    """What the changes of a source are called."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)

    def made(source: str) -> list[str]:
        path = tmp_path / "box.py"
        path.write_text(source)
        return [each.key for each in mutants_of(path)]

    return made


def test_each_change_has_a_name_of_its_own_that_moving_the_line_does_not_change(keys):
    found = keys(SOURCE)
    assert "(module): 5 → 6 | LIMIT = 5" in found
    assert "Box.put: many > LIMIT → many >= LIMIT | if many > LIMIT:" in found
    assert "Box.put: many + 1 → many - 1 | return many + 1, many + 1 #2" in found
    assert len(set(found)) == len(found)
    assert keys("# a line\n\n" + SOURCE) == found


def test_how_much_of_something_an_error_shows_is_not_changed(keys):
    assert not any("40 → 41" in each for each in keys(SOURCE))


def test_every_explained_change_can_be_made_and_has_a_reason():
    reasons = explained()
    assert stale([ROOT / file for file in reasons]) == []
    assert all(text.strip() for of_file in reasons.values() for text in of_file.values())


def test_an_entry_that_fits_no_change_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(mutants, "EXPLAINED", tmp_path / "survivors.toml")
    (tmp_path / "survivors.toml").write_text('["ota/formats/text.py"]\n"gone: 1 → 2" = "was"\n')
    assert stale([Path(ROOT / "ota/formats/text.py")]) == ["ota/formats/text.py: gone: 1 → 2"]
