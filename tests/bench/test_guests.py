"""The measurement of languages: every side answers, and one that answers something else is found out."""

import pytest

from bench import guest_side
from bench.guests import LANGUAGES, METRICS, SIDES, TARGETS, Guest, judged, measure, rows, tables
from ota.author.templates import LANGUAGES as TEMPLATES
from tests.support.aot import aotc
from tests.support.lab import PUBLISH
from tests.support.wat import contract_module


def test_every_language_but_text_is_measured():
    assert set(LANGUAGES) == set(TEMPLATES) - {"wat"}
    assert {language for language, _ in TARGETS} <= {"", *LANGUAGES}


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_a_module_is_measured_on_each_side(monkeypatch, capsys):
    monkeypatch.setattr("bench.guests.EVENTS", 3)
    guests = measure(1, ["zig"])
    assert [each.language for each in guests] == ["zig"]
    for row in rows(guests):
        assert set(row.others) == set(SIDES)
        assert row.name.endswith("module_mb") or min(row.others.values()) > 0
    assert len(tables(guests).split("\n\n")[1].splitlines()) == 1 + len(SIDES)


def test_a_side_that_answers_something_else_is_found_out(tmp_path):
    body = "(call $publish (i32.const 100) (i32.const 3) (i32.const 200) (i32.const 1) (i32.const 80)) (i32.const 0)"
    module, description = tmp_path / "m.wasm", tmp_path / "m.toml"
    module.write_bytes(contract_module(body, PUBLISH, '(data (i32.const 100) "out")', ""))
    description.write_text('[limits]\nmemory_pages = 4\n[capabilities.messaging]\npublish = ["out"]\n')
    for side in ("ours", "wasmtime"):
        with pytest.raises(RuntimeError, match="instead of"):
            guest_side.main(side, str(module), str(description), "1")


def test_a_target_that_is_missed_says_by_how_much():
    numbers = {side: [dict.fromkeys(METRICS, 90.0)] for side in SIDES}
    found = judged([Guest("go", {}, {}, numbers)])
    assert "go, first_event_ms ahead of time: 90.00 ms, at most 60: 1.50 times the target" in found
    assert "go, event_us ahead of time: 90.00 us, at most 120: met" in found
    assert "go, rss_mb aot / wasmtime_cached: 1.00, at most 0.5: 2.00 times the target" in found
