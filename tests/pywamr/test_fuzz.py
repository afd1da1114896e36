"""A short run of libFuzzer over loader and interpreter, under AddressSanitizer; WAMR_OTA_FUZZ_S runs it longer."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

from tests.conftest import ROOT
from tests.support import blocks
from tests.support.wat import contract_module, wat

SECONDS = int(os.environ.get("WAMR_OTA_FUZZ_S", "20"))
CLANG = next((name for name in (f"clang-{number}" for number in range(19, 13, -1)) if shutil.which(name)), None)
# An instruction of each shape: with lanes, with an address, with both, with a constant, in locals, globals, blocks and results.
VECTORS = """(module (memory (export "memory") 1) (global $g (mut v128) (v128.const i64x2 1 2))
  (func $f (export "f") (param v128 i32) (result v128) (local v128)
    (local.set 2 (v128.load offset=3 (local.get 1)))
    (local.set 2 (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 31 30 29 28 (local.get 0) (local.get 2)))
    (local.set 2 (v128.load32_lane 2 (local.get 1) (local.get 2)))
    (v128.store16_lane 7 (local.get 1) (local.get 2))
    (v128.store (local.get 1) (i8x16.swizzle (local.get 2) (v128.load8_splat (local.get 1))))
    (global.set $g (v128.bitselect (global.get $g) (v128.load32x2_u (local.get 1)) (v128.load64_zero (local.get 1))))
    (local.set 2 (i64x2.shl (i16x8.narrow_i32x4_s (local.get 2) (local.get 0)) (i32x4.bitmask (global.get $g))))
    (local.set 2 (f32x4.pmax (f32x4.convert_i32x4_s (local.get 2)) (f32x4.demote_f64x2_zero (f64x2.sqrt (local.get 0)))))
    (local.tee 2 (i64x2.replace_lane 1 (local.get 2) (i64.extend_i32_u (i8x16.extract_lane_s 15 (local.get 2)))))
    (select (local.get 0) (v128.any_true (local.get 0)))
    (if (result v128) (i32x4.all_true (local.get 0)) (then (i16x8.q15mulr_sat_s (local.get 0) (local.get 2)))
      (else (i32x4.dot_i16x8_s (i32x4.extmul_high_i16x8_u (local.get 0) (local.get 2))
        (i16x8.extadd_pairwise_i8x16_s (local.get 2)))))
    v128.xor)
  (func (export "go") (result i32) (i32x4.extract_lane 0 (call $f (v128.const f64x2 1 nan) (i32.const 9)))))"""


@pytest.fixture(scope="module")
def fuzzer() -> Path:
    """The built fuzzer."""
    if CLANG is None:
        pytest.skip("clang with libFuzzer is not installed: apt install clang-19 libclang-rt-19-dev")
    folder = ROOT / "build" / "fuzz"
    configure = [
        "cmake",
        "-S",
        str(ROOT),
        "-B",
        str(folder),
        "-G",
        "Ninja",
        "-DPW_FUZZ=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"CC": CLANG, "CXX": CLANG, "PATH": path}
    for command in (configure, ["cmake", "--build", str(folder)]):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder / "native" / "fuzz" / "pw_fuzz"


@pytest.mark.full
@pytest.mark.timeout(SECONDS + 600)
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
    names = wat(r'(module (import "a\00b" "\00" (func)) (func (export "\00x") (param i64)) (func (export "") (nop)))')
    for which, more in (("", b""), ("-bad", b"\0\x08\x04name\1\5\1")):
        (corpus / f"names{which}.wasm").write_bytes(names + more)
    (corpus / "vectors.wasm").write_bytes(wat(VECTORS))
    for seed in range(40):
        (corpus / f"blocks{seed}.wasm").write_bytes(wasmtime.wat2wasm(blocks.module(random.Random(seed))))
    command = [str(fuzzer), str(corpus), f"-max_total_time={SECONDS}", "-timeout=10", "-rss_limit_mb=2500", "-max_len=16384"]
    command += ["-print_final_stats=1", f"-artifact_prefix={tmp_path}/"]
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:handle_segv=0:handle_sigbus=0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [path.name for path in tmp_path.iterdir()]
    assert done.returncode == 0, (found, done.stderr[-3000:])
    assert "stat::number_of_executed_units" in done.stderr
