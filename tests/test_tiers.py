"""Which tests run where: nothing is lost between the tiers, and the rest keeps to its time."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests import rest
from tests.rest import Part, Run, in_order, parts_of, run_part
from tests.support import tiers

pytest_plugins = ["pytester"]
MARKERS = "[pytest]\nmarkers =\n  full\n  emulated\n"
EXAMPLE = """
import pytest
def test_plain(): pass
@pytest.mark.full
def test_big(): pass
@pytest.mark.emulated
@pytest.mark.parametrize("board", ["aarch64", "armv7-systemd", "riscv64"])
def test_boots(board): pass
"""


def ran(pytester, *options):
    pytester.makeini(MARKERS)
    pytester.makepyfile(test_example=EXAMPLE)
    result = pytester.runpytest_inprocess("-p", "tests.support.tiers", "-v", *options)
    return {line.split()[0].partition("::")[2] for line in result.outlines if " PASSED" in line}


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tiers.Durations, "path", tmp_path / "durations.json")


@pytest.mark.full
def test_the_same_tests_are_collected_in_the_same_order_by_each_process():
    """What a set gives has another order in each; workers that disagree end the run before its first test."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--tier", "full"]
    seen = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, cwd=tiers.ROOT, env=environment, capture_output=True, text=True, check=True)
        seen.append([line for line in done.stdout.splitlines() if "::" in line])
    first, second = seen
    assert len(first) > 5000
    assert first == second


@pytest.mark.parametrize("architecture", tiers.ARCHITECTURES)
def test_quick_and_rest_together_are_everything_and_share_nothing(pytester, architecture):
    chosen = ("--architecture", architecture)
    quick, others = ran(pytester, *chosen), ran(pytester, "--tier", "rest", *chosen)
    assert quick & others == set()
    assert quick | others == ran(pytester, "--tier", "full")
    assert len(quick) == 2
    assert "test_plain" in quick
    assert any(architecture in name for name in quick)


def test_a_test_that_is_named_runs_whatever_its_marks_are(pytester):
    assert ran(pytester, "test_example.py::test_big") == {"test_big"}


def test_each_architecture_has_its_turn_within_three_days():
    assert {tiers.architecture_on(day) for day in (364, 365, 366)} == set(tiers.ARCHITECTURES)


def test_durations_of_a_run_are_kept_beside_those_of_others(pytester, tmp_path):
    (tmp_path / "durations.json").write_text('{"other": 3}')
    ran(pytester)
    kept = json.loads((tmp_path / "durations.json").read_text())
    assert kept["other"] == 3
    assert "test_example.py::test_plain" in kept


def test_big_tests_are_parts_of_their_own_and_small_ones_share_a_board():
    known = {"tests/boards/a.py::x[armv7-1]": 500.0, "tests/boards/a.py::y[armv7]": 5.0, "tests/boards/a.py::z[armv7-2]": 6.0}
    parts = parts_of([*known, "tests/boards/a.py::y[riscv64]"], known)
    assert [(part.name, len(part.tests), part.seconds) for part in parts] == [
        ("tests/boards/a.py armv7", 2, 11.0),
        ("tests/boards/a.py riscv64", 1, 5.0),
        ("tests/boards/a.py::x[armv7-1]", 1, 500.0),
    ]


def test_a_test_that_was_never_measured_takes_as_long_as_with_other_parameters():
    known = {"a.py::x[1]": 2.0, "a.py::x[2]": 4.0, "a.py::y": 7.0}
    found = rest.expected(["a.py::x[1]", "a.py::x[3]", "a.py::x", "a.py::z"], known)
    assert list(found.values()) == [2.0, 3.0, 3.0, rest.UNKNOWN_S]


def test_what_changed_comes_first_and_the_others_begin_elsewhere_each_day():
    parts = [Part(name, (f"{name}::test",), 1) for name in ("tests/agent/a.py", "tests/boards/b.py", "tests/spec/c.py")]
    assert next(part.name for part in in_order(parts, ["boards/image.py"], 2)) == "tests/boards/b.py"
    assert {in_order(parts, [], day)[0].name for day in range(3)} == {part.name for part in parts}
    assert in_order([], [], 5) == []


def test_a_part_that_would_not_be_done_in_time_is_not_begun():
    run = Run([Part("long", ("a",), 1000), Part("short", ("b",), 10)], time.time() + 200)
    assert run.take().name == "short"
    assert run.take() is None
    assert [part.name for part in run.waiting] == ["long"]


def test_a_machine_is_as_slow_as_its_parts_were_together_and_not_as_the_one_that_was_estimated_worst():
    run = Run([], time.time() + 1000)
    assert run.slower == 1.0
    for seconds, took_s in ((1.0, 50.0), (100.0, 300.0), (300.0, 300.0)):  # the first is too short to tell
        run.tell(Part("some", ("a",), seconds), took_s, "1 passed", failed=False)
    assert run.slower == 1.5
    run.tell(Part("some", ("a",), 500.0), 100.0, "1 passed", failed=False)
    assert run.slower == 1.0


def test_beside_big_parts_the_shortest_are_run():
    parts = [Part("big", ("a",), 500.0), Part("long", ("b",), 60.0), Part("short", ("c",), 5.0), Part("other", ("d",), 20.0)]
    run = Run(parts, time.time() + 3600)
    assert [run.take().name, *(run.take(shortest=True).name for _ in range(3))] == ["big", "short", "other", "long"]
    assert run.take(shortest=True) is None


@pytest.mark.parametrize(
    ("body", "failed"), [("assert True", False), ("assert False", True), ("import time; time.sleep(60)", False)]
)
def test_a_failure_is_told_and_time_that_is_up_is_none(tmp_path, monkeypatch, capsys, body, failed):
    monkeypatch.setattr(rest, "OUT", tmp_path)
    monkeypatch.setattr(rest, "ROOT", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--tier')\n")
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {body}\n")
    run = Run([], time.time() + (4 if "sleep" in body else 60))
    run_part(Part("it", ("test_it.py::test_it",), 1), run, 0)
    assert run.failed == (["it"] if failed else [])
    assert ("the time was up" in capsys.readouterr().out) == ("sleep" in body)


@pytest.mark.parametrize(
    ("made", "code"), [("", 0), ("open('dist', 'w').close()", 1), ("open('x', 'w').close(); os.remove('x')", 0)]
)
def test_a_run_that_leaves_files_among_the_sources_fails(pytester, monkeypatch, made, code):
    monkeypatch.setattr(tiers, "ROOT", pytester.path)
    pytester.makeini(MARKERS)
    pytester.makepyfile(test_it=f"import os\ndef test_it(): {made or 'pass'}\n")
    result = pytester.runpytest_inprocess("-p", "tests.support.tiers", "-p", "no:cacheprovider")
    assert result.ret == code
    assert ("left files in the project's folder: dist" in result.stdout.str()) == bool(code)
