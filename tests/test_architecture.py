"""docs/architecture.md says what there is: the rooms with their imports, and modules that exist."""

import itertools
import os
import re

import grimp

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DRAWINGS = re.findall(r"```mermaid\n(.*?)```", TEXT, re.DOTALL)


def room(module: str) -> str:
    """The folder of device_agent that a module is in; empty for what is in none."""
    first, _, rest = module.partition(".")
    folder = rest.partition(".")[0]
    return folder if first == "device_agent" and (ROOT / "device_agent" / folder / "__init__.py").is_file() and folder else ""


def test_the_rooms_are_drawn_as_they_import_each_other():
    graph = grimp.build_graph("device_agent", cache_dir=None)
    found = {(room(module), room(other)) for module in graph.modules for other in graph.find_modules_directly_imported_by(module)}
    found = {(each, other) for each, other in found if each and other and each != other}
    assert set(re.findall(r"^ +(\w+) --> (\w+)$", DRAWINGS[0], re.MULTILINE)) == found
    rooms = {path.parent.name for path in (ROOT / "device_agent").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == rooms


def test_three_ways_through_the_house_name_modules_that_exist():
    assert len(DRAWINGS) == 4
    for drawing in DRAWINGS[1:]:
        named = re.findall(r"\b\w+/\w+\.py\b", drawing)
        assert len(named) > 6
        assert [each for each in named if not (ROOT / "device_agent" / each).is_file()] == []
    elsewhere = set(re.findall(r"`(\w+/\w+\.py)`", TEXT))
    places = (ROOT / "device_agent", ROOT / "wamr_bindings", ROOT / "ota")
    assert [each for each in elsewhere if not any((place / each).is_file() for place in places)] == []


def test_each_way_goes_in_one_direction():
    for drawing in DRAWINGS[1:]:
        arrows = []
        for line in drawing.splitlines():
            steps = re.split(r" -->(?:\|[^|]*\|)? ", line.strip())
            arrows += itertools.pairwise(steps)
        assert len(arrows) > 6
        left = {each for arrow in arrows for each in arrow}
        while ends := {each for each in left if not any(each == start and end in left for start, end in arrows)}:
            left -= ends
        assert left == set(), "a circle"


def test_findings_can_be_run():
    found = sorted((ROOT / "findings").glob("*.sh"))
    assert len(found) > 5
    assert not [each.name for each in found if not os.access(each, os.X_OK)]
