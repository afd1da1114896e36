"""The programs that speed is measured with: their table, and that a side which computes something else is found out."""

import tomllib

import pytest

from bench.programs.build import DRIVERS, HERE, NATIVE, BuildError, Program, programs
from bench.programs.measure import CPUS, DifferentResultError, Result, Side, _turns, compile_image, rows, sides_of

SHARED = {
    "count.c",
    "driver.h",
    "low.c",
    "native.c",
    "no_wasi.c",
    "programs.rs",
    "setjmp",
    "config.h",
    "flatbuffers_base.h",
    "mbedtls_config.h",
}
PINNED = {each["name"]: each for each in tomllib.loads((HERE / "Cargo.lock").read_text())["package"]}
WANTED = tomllib.loads((HERE / "Cargo.toml").read_text())["dependencies"]


def _crates(program: Program) -> set[str]:
    return set(program.crates) | ({program.crate} if program.crate else set())


def test_there_are_programs_in_four_languages():
    assert len(programs()) >= 16
    assert {each.language for each in programs()} == set(NATIVE)


@pytest.mark.parametrize("program", programs(), ids=lambda each: each.name)
def test_a_program_has_a_driver_and_its_sources_are_pinned_by_digest(program: Program):
    assert program.driver.exists()
    assert bool(program.sources) == bool(program.crate)
    for crate in _crates(program):
        assert len(PINNED[crate]["checksum"]) == 64


def test_each_version_that_is_asked_for_is_exact():
    versions = [each if isinstance(each, str) else each["version"] for each in WANTED.values()]
    assert all(each.startswith("=") for each in versions)
    assert set(WANTED) <= set().union(*map(_crates, programs()))


def test_no_driver_is_left_over():
    assert {each.name for each in DRIVERS.iterdir()} == SHARED | {each.driver.name for each in programs()}


class _Canned(Side):
    def __init__(self, name: str, checksum: int) -> None:
        self.name, self._checksum = name, checksum

    def run(self, times: int) -> tuple[int, float]:
        return self._checksum, 1e-3 * times


def test_a_side_that_computes_something_else_fails_the_row():
    with pytest.raises(DifferentResultError, match=r"zlib: interp computes 2, gcc 1"):
        _turns(programs()[0], [_Canned("gcc", 1), _Canned("aot", 1), _Canned("interp", 2)], 0.1)


def test_the_work_of_all_sides_counts_alike():
    found = _turns(programs()[0], [_Canned("gcc", 1), _Canned("aot", 1), _Canned("interp", 1)], 0.1)
    assert found.keys() == {"gcc", "aot", "interp"}
    assert all(each == pytest.approx(1.0) for values in found.values() for each in values)


def test_means_are_geometric_and_only_those_of_c_count_against_gcc(monkeypatch):
    monkeypatch.setattr("bench.programs.measure._compile_row", lambda name, *_: rows.__globals__["Row"](name, 1.0, "ms"))
    by_name = {each.name: each for each in programs()}
    speeds = {"zlib": (0.5, 1.0), "lua": (2.0, 1.0), "collections": (8.0, 1.0)}
    results = [
        Result(
            by_name[name],
            {by_name[name].natives[0]: 1.0, "clang": 1.0, "aot": aot, "wasmtime": peer, "interp": 0.1, "wasm3": 0.2},
            dict.fromkeys(("aot",), 0.0),
            100,
            200,
            5.0,
        )
        for name, (aot, peer) in speeds.items()
    ]
    found = {each.name: each.value for each in rows(results)}
    assert found["aot_programs_vs_gcc"] == pytest.approx(1.0)
    assert found["aot_programs_vs_wasmtime"] == pytest.approx(2.0)
    assert found["interp_vs_wasm3"] == pytest.approx(0.5)
    assert found["image_bytes_vs_wasm"] == pytest.approx(2.0)
    assert found["program_collections"] == 8.0


@pytest.mark.full
@pytest.mark.parametrize("name", ["lz4", "zig_collections"])
def test_a_program_computes_the_same_natively_interpreted_and_ahead_of_time(name: str):
    program = next(each for each in programs() if each.name == name)
    try:
        commands = sides_of(program)
        for side in CPUS:
            compile_image(program, side)
    except (BuildError, FileNotFoundError) as error:
        pytest.skip(f"can't be built here: {str(error)[:200]}")
    checksums = {}
    for side in (program.natives[0], "interp", "aot", "aot_least", "wasmtime"):
        process = Side(side, commands[side])
        checksums[side] = [process.run(times)[0] for times in (1, 2, 1)]
        process.close()
    first = checksums[program.natives[0]]
    assert all(each == first for each in checksums.values())
    assert first[0] == first[2] != first[1]
