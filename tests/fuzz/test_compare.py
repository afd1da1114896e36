"""What `make fuzz` takes for a fault, and what for none; and that faults it finds are kept and made smaller."""

import json
import os
import random
import subprocess
import sys

import pytest

from ota.author.aot import host_target
from tests.conftest import ROOT
from tests.fuzz import cases, ours, values
from tests.fuzz.compare import Comparison, difference
from tests.fuzz.forked import Done, Server
from tests.fuzz.reduce import reduced
from tests.support.emulated import ARCHITECTURES
from tests.support.wat import wat

SIMPLE = wat('(module (func (export "run") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1))))')
OK = ["start", "ok", [0, 0, 0]]


class Scripted(Comparison):
    """Both sides' answers are given."""

    def __init__(self, found: Done, theirs: Done, canonical: Done | None = None, shape: Done | None = None) -> None:
        super().__init__((host_target(),), ("interpreter",))
        self.answers = found, theirs, canonical or theirs
        self.shape = shape or Done("ok", {"imports": []})

    def _ask(self, who, request):
        if who == "wasmtime":
            return self.answers[2 if request.get("canonical") else 1]
        return self.answers[0] if "calls" in request else self.shape


def said(*calls):
    return Done("ok", {"seen": [OK, *calls]})


@pytest.mark.parametrize(
    ("found", "theirs", "kind"),
    [
        (said(["run", [3], [0, 0, 0]]), said(["run", [3], [0, 0, 0]]), "agrees"),
        (said(["run", [4], [0, 0, 0]]), said(["run", [3], [0, 0, 0]]), "differs"),
        (said(["run", "unreachable", [0, 0, 1]]), said(["run", "unreachable", [0, 0, 2]]), "differs"),
        (said(["run", "unreachable", [0, 0, 1]]), said(["run", "divide-by-zero", [0, 0, 1]]), "differs"),
        (said(["run", "undefined-element", []]), said(["run", "table-out-of-bounds", []]), "agrees"),
        (said(["run", "stack-overflow", [0, 0, 1]]), said(["run", [3], [0, 0, 2]]), "agrees"),
        (Done("hang", note="SIGXCPU"), said(["run", [3], [0, 0, 0]]), "hang"),
        (Done("crash", note="SIGSEGV"), said(["run", [3], [0, 0, 0]]), "crash"),
        (Done("error", note="KeyError: 1"), said(["run", [3], [0, 0, 0]]), "error"),
        (Done("memory"), said(["run", [3], [0, 0, 0]]), "left-out"),
    ],
)
def test_a_verdict_says_what_went_wrong(found, theirs, kind):
    assert [each.kind for each in Scripted(found, theirs).verdicts(SIMPLE, 1)] == [kind]


def test_bits_of_nans_that_wasmtime_itself_has_two_ways_are_no_fault():
    found, theirs, canonical = (said(["run", [bits], [0, 0, 0]]) for bits in (1, 2, 3))
    assert [each.kind for each in Scripted(found, theirs, canonical).verdicts(SIMPLE, 1)] == ["left-out"]


NANS = {0x7F800001: 0x7FC00001, 0xFF800001: 0xFFC00001, 0x7FC00000: 0x7FC00000, 0x7FFFFFFF: 0x7FFFFFFF}
"""Bits of an f32, and of its quiet NaN."""


def test_a_single_nan_keeps_sign_and_payload_and_is_quiet():
    assert {bits: values.shown("f32", values.value("f32", bits)) for bits in NANS} == NANS
    assert [values.shown("f32", values.value("f32", bits)) for bits in (1, 0xFF800000)] == [1, 0xFF800000]


@pytest.mark.emulated
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_a_single_nan_keeps_them_on_every_processor(target):
    program = "from tests.fuzz import values; print(*(values.shown('f32', values.value('f32', bits)) for bits in {}))"
    done = ARCHITECTURES[target].run("-c", program.format(list(NANS)))
    assert done.stdout.split() == [str(quiet) for quiet in NANS.values()], done.stderr


@pytest.mark.parametrize(
    ("shape", "theirs", "kind"),
    [
        ({"refused": "no"}, {}, "refused"),
        ({"refused": "no"}, {"refused": "no"}, "agrees"),
        ({"left_out": "no"}, {}, "left-out"),
        ({"imports": []}, {"refused": "no"}, "left-out"),  # wasm-tools says that it is valid
    ],
)
def test_a_module_that_one_side_does_not_load(shape, theirs, kind):
    found = Scripted(said(), Done("ok", theirs), shape=Done("ok", shape)).verdicts(SIMPLE, 1)
    assert [each.kind for each in found] == [kind]


def test_a_call_too_few_is_a_difference():
    assert difference([OK], [OK, ["run", [1], []]]) == "1 calls instead of 2"


JOBS = """
import os, signal, sys
from tests.fuzz import forked
def job(what):
    if what == "loop":
        while True: pass
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "leave":
        os._exit(3)
    if what == "fill":
        return len(bytearray(8 << 30))
    if what == "raise":
        raise KeyError(what)
    return [what]
forked.serve(job, cpu_s=1)
"""


def test_hangs_crashes_and_hunger_are_told_apart_and_the_next_job_runs():
    server = Server([sys.executable, "-c", JOBS])
    try:
        ended = {what: server.ask(what) for what in ("loop", "crash", "leave", "fill", "raise", "work")}
    finally:
        server.close()
    assert {what: done.ended for what, done in ended.items()} == {
        "loop": "hang", "crash": "crash", "leave": "crash", "fill": "memory", "raise": "error", "work": "ok"
    }  # fmt: skip
    assert (ended["loop"].note, ended["crash"].note, ended["leave"].note) == ("SIGXCPU", "SIGSEGV", "exit code 3")
    assert ended["work"].found == ["work"]


def test_a_server_that_is_gone_is_started_again():
    server = Server([sys.executable, "-c", "import sys; sys.stdin.readline()"])
    try:
        assert [server.ask(1).ended, server.ask(2).ended] == ["crash", "crash"]
    finally:
        server.close()


def test_a_module_that_hides_its_state_is_made_to_show_it(tmp_path):
    hidden = wat(
        '(module (global (mut i32) (i32.const 7)) (memory 1) (func (export "run") (i32.store8 (i32.const 3) (i32.const 1))))'
    )
    module = tmp_path / "module.wasm"
    module.write_bytes(cases.exposed(hidden))
    shape = ours.look({"path": str(module)})
    assert shape["memory"] == "fuzz-2-0"
    assert (shape["globals"], list(shape["functions"])) == ({"fuzz-3-0": "i32"}, ["run"])


def test_a_case_is_the_same_again():
    for number in range(4):
        assert cases.made(5, number, []) == cases.made(5, number, [])
    assert cases.smith(random.Random(1)) != cases.smith(random.Random(2))


@pytest.mark.full
def test_what_was_found_is_made_smaller_and_does_the_same_still(tmp_path):
    module = tmp_path / "module.wasm"
    module.write_bytes(cases.smith(random.Random(3)))
    about = {"case": "1-1 smith", "seed": 1, "mode": f"interpreter-{host_target()}", "kind": "agrees"}
    (tmp_path / "about.json").write_text(json.dumps(about))
    size = reduced(module, 8)
    assert 0 < size < len(module.read_bytes())
    assert subprocess.run([tmp_path / "predicate", tmp_path / "reduced.wasm"], check=False).returncode == 0
    about["kind"] = "differs"
    (tmp_path / "about.json").write_text(json.dumps(about))
    assert subprocess.run([tmp_path / "predicate", tmp_path / "reduced.wasm"], check=False).returncode == 1


def run(*arguments, out):
    command = [sys.executable, "-m", "tests.fuzz", "--attempts", "0", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_run_goes_on_where_the_last_one_ended(tmp_path):
    out = tmp_path / "fuzz.json"
    assert run("--seed", "4", "--cases", "3", out=out).returncode == 0
    first = json.loads(out.read_text())
    assert (first["seed"], first["next"], first["found"]) == (4, 3, [])
    assert sum(first["counts"].values()) >= 3
    assert run("--resume", "--cases", "2", out=out).returncode == 0
    assert (json.loads(out.read_text())["seed"], json.loads(out.read_text())["next"]) == (4, 5)


FUZZ_S = os.environ.get("WAMR_OTA_FUZZ_S", "60")


@pytest.mark.full
@pytest.mark.timeout(int(FUZZ_S) + 900)
@pytest.mark.parametrize("target", ["host", *(pytest.param(name, marks=pytest.mark.emulated) for name in ARCHITECTURES)])
def test_modules_made_at_random_do_what_they_do_in_wasmtime(target, tmp_path):
    """The same ones each time: others are for `make fuzz`."""
    seed = os.environ.get("WAMR_OTA_SEED", "11")
    name = host_target() if target == "host" else target
    done = run("--seed", seed, "--seconds", FUZZ_S, "--targets", name, out=tmp_path / "fuzz.json")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads((tmp_path / "fuzz.json").read_text())["counts"]
    assert sum(number for what, number in counts.items() if what.endswith(" agrees")) > 10
