"""A short run of libFuzzer over loader and interpreter, under AddressSanitizer; WAMR_OTA_FUZZ_S runs it longer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.wat import contract_module, wat

SECONDS = int(os.environ.get("WAMR_OTA_FUZZ_S", "20"))
CLANG = next((name for name in (f"clang-{number}" for number in range(19, 13, -1)) if shutil.which(name)), None)


@pytest.fixture(scope="module")
def fuzzer() -> Path:
    """The built fuzzer."""
    if CLANG is None:
        pytest.skip("clang with libFuzzer is not installed: apt install clang-19 libclang-rt-19-dev")
    folder = ROOT / "build" / "fuzz"
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DPW_FUZZ=ON"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"CC": CLANG, "CXX": CLANG, "PATH": path}
    for command in (configure, ["cmake", "--build", str(folder)]):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder / "native" / "fuzz" / "pw_fuzz"


@pytest.mark.timeout(SECONDS + 300)
def test_no_bytes_corrupt_memory(fuzzer, modules, tmp_path):
    corpus = ROOT / "build" / "fuzz" / "corpus"
    corpus.mkdir(exist_ok=True)
    for path in modules.glob("*.wasm"):
        shutil.copyfile(path, corpus / path.name)
    (corpus / "contract.wasm").write_bytes(contract_module())
    (corpus / "table.wasm").write_bytes(
        wat("""(module (table 3 funcref) (elem (i32.const 0) $f) (memory 1) (data "x") (global (mut i64) (i64.const 7))
          (func $f (export "f") (param i32) (result i32) (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 1))
            (if (result i32) (local.get 0)
              (then (call_indirect (param i32) (result i32) (i32.const 0) (i32.const 0))) (else (i32.const 1)))))""")
    )
    command = [str(fuzzer), str(corpus), f"-max_total_time={SECONDS}", "-timeout=10", "-rss_limit_mb=2500", "-max_len=16384"]
    command += ["-print_final_stats=1", f"-artifact_prefix={tmp_path}/"]
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:handle_segv=0:handle_sigbus=0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [path.name for path in tmp_path.iterdir()]
    assert done.returncode == 0, (found, done.stderr[-3000:])
    assert "stat::number_of_executed_units" in done.stderr
