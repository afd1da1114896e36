"""The bindings, the interpreter and ahead-of-time code on the other architectures, under qemu-user."""

import json
import os
import random
import re
import subprocess
from pathlib import Path

import pytest
import wasmtime

from tests.conftest import ROOT
from tests.support import after_traps, blocks
from tests.support.aot import aotc, compiled
from tests.support.emulated import ARCHITECTURES, PYTHON, Architecture
from tests.support.guest_c import zig_cc
from tests.support.operations import module, operands, ours, scalars, vectors
from tests.support.results import MODULE
from tests.support.wat import wat

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.emulated,
    pytest.mark.skipif(len(PYTHON) > 1 or "PYWAMR_TEST_LIBRARY_FOLDER" in os.environ, reason="this is a run of its own already"),
]
# Not asked: how the emulator's own memory grows, and what builds for this machine.
HERE_ONLY = [f"test_{name}.py" for name in ("architectures", "fuzz", "sanitizers")]
OURS = "not without_growth and not ten_thousand and not missing_library and not write_to_it and not counts_every_reference"


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request) -> Architecture:
    return ARCHITECTURES[request.param]


def images(architecture: Architecture, wasm: bytes, folder) -> list[str]:
    """The module and its image for the architecture, as files."""
    if aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    (folder / "module.wasm").write_bytes(wasm)
    (folder / "module.aot").write_bytes(compiled(wasm, architecture.target))
    return [str(folder / "module.wasm"), str(folder / "module.aot")]


def results(architecture: Architecture, kind: str, files: list[str]) -> list:
    done = architecture.run("-m", "tests.support.results", kind, *files)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_tests_of_this_folder_start_python_by_its_command():
    """An emulated program cannot be started by its path alone: `sys.executable` gives exit code 127 and not a word."""
    files = sorted(set((ROOT / "tests/pywamr").glob("test_*.py")) - {ROOT / "tests/pywamr" / name for name in HERE_ONLY})
    assert len(files) > 10
    assert not [file.name for file in files if "sys.executable" in file.read_text(encoding="utf-8")]


@pytest.mark.full
def test_the_tests_of_this_folder_pass_in_both_modes(architecture):
    ignored = [f"--ignore=tests/pywamr/{name}" for name in HERE_ONLY]
    done = architecture.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", OURS, *ignored, "tests/pywamr")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "interpreter" not in done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 150


@pytest.mark.full
@pytest.mark.parametrize("mode", ["interpreter", "aot"])
def test_the_spec_holds(architecture, mode, tmp_path):
    """Every assertion of core 2.0; vectors too, but in ahead-of-time code only where WAMR's compiler has them."""
    if mode == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    out = tmp_path / "spec.json"
    done = architecture.run("-m", "tests.spec", "--mode", mode, "--out", str(out))
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    found = json.loads(out.read_text())[mode]
    assert found["core"]["passed"] > 26_000
    assert found["simd"]["passed"] > (25_000 if mode == "interpreter" or architecture.target == "aarch64" else 700)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["scalars", "vectors"])
def test_an_instruction_gives_what_it_gives_here(architecture, kind, tmp_path):
    operations = {"scalars": scalars, "vectors": vectors}[kind]()
    files, expected = [], []
    for seed in range(4):
        wasm = wat(module(operations, operands(seed)))
        expected.append(ours(operations, wasm))
        (tmp_path / f"{seed}.wasm").write_bytes(wasm)
        files.append(str(tmp_path / f"{seed}.wasm"))
        if aotc() is not None and (kind == "scalars" or architecture.target == "aarch64"):
            expected.append(expected[-1])
            (tmp_path / f"{seed}.aot").write_bytes(compiled(wasm, architecture.target))
            files.append(str(tmp_path / f"{seed}.aot"))
    done = architecture.run("-m", "tests.support.operations", kind, *files)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("modules", [20, pytest.param(300, marks=pytest.mark.full)])
def test_nested_blocks_give_what_they_give_here(architecture, tmp_path, modules):
    files, expected = [], []
    for seed in range(modules):
        vectors = seed % 2 == 0
        wasm = bytes(wasmtime.wat2wasm(blocks.module(random.Random(seed), vectors=vectors)))
        codes = [wasm]
        if aotc() is not None and seed < modules // 5 and (architecture.target == "aarch64" or not vectors):
            codes.append(compiled(wasm, architecture.target))
        for code in codes:
            expected.append(blocks.ours(wasm))
            files.append(str(tmp_path / str(len(files))))
            Path(files[-1]).write_bytes(code)
    done = architecture.run("-m", "tests.support.blocks", *files)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


@pytest.mark.full
def test_floats_pass_through_host_functions_as_they_are(architecture, tmp_path):
    """RISC-V's ordinary natives get NaN for a single, ARM's without hard-float garbage."""
    wasm = wat(MODULE)
    files = images(architecture, wasm, tmp_path)
    here = subprocess.run([*PYTHON, "-m", "tests.support.results", "floats", files[0]], cwd=ROOT, capture_output=True, check=True)
    expected = json.loads(here.stdout)[0]
    assert "nan" not in str(expected)
    assert results(architecture, "floats", files) == [expected, expected]


def test_kernels_compute_what_they_compute_here(architecture, tmp_path):
    kernels = tmp_path / "kernels.wasm"
    flags = ("-target", "wasm32-freestanding", "-O2", "-nostdlib", "-fno-builtin", "-Wl,--no-entry")
    kernels.write_bytes(zig_cc(ROOT / "bench" / "kernels" / "kernels.c", *flags))
    files = images(architecture, kernels.read_bytes(), tmp_path)
    here = tmp_path / "here.aot"
    here.write_bytes(compiled(kernels.read_bytes()))
    both = [*PYTHON, "-m", "tests.support.results", "kernels", files[0], str(here)]
    expected = json.loads(subprocess.run(both, cwd=ROOT, capture_output=True, check=True).stdout)
    assert expected[0] == expected[1]
    assert results(architecture, "kernels", files) == expected


@pytest.mark.full
def test_memory_after_a_trap_is_what_it_is_here(architecture, tmp_path):
    """Each case, and loops made at random, interpreted and compiled. A case without end hangs where nothing ends it."""
    programs = [*after_traps.CASES.values(), *(after_traps.made(random.Random(seed)) for seed in range(60))]
    wasm = wat(after_traps.module(*(body for body, *_ in programs)))
    files = images(architecture, wasm, tmp_path)
    calls = [(number, *arguments) for number, (_, *arguments) in enumerate(programs)]
    expected = [after_traps.left(wasm, *call) for call in calls]
    for file in files:
        done = architecture.run("-m", "tests.support.after_traps", *(":".join(map(str, (file, *call))) for call in calls))
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [call for call, ours, theirs in zip(calls, found, expected, strict=True) if ours != theirs] == []
