"""Generated code: eight kernels, interpreted and compiled ahead of time, each access checked, beside gcc -O2 and other runtimes."""

import ctypes
import functools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import wasm3
import wasmtime

from bench.measure import Row
from ota.author.aot import Compiler, host_target
from pywamr import Runtime

SOURCE = Path(__file__).parent / "kernels" / "kernels.c"
KERNELS = {"crc32": 400, "sha256": 300, "sort": 40, "matrix": 40, "filter": 600, "fir": 400, "mix": 400, "parse": 400}
COMPILERS = (("gcc", "gcc"), ("clang", sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline", "-fno-sanitize=undefined"))
WASMER = Path("build/wasmer/bin/python")
SLOW = 20  # interpreters get this part of the rounds
FEATURES = {"x86_64": "x86-64-v3"}  # as a board's owner would name it; elsewhere the least of the architecture

Kernel = Callable[[int], int]


def measure(rounds: int) -> list[Row]:
    """One row for each mode, the geometric mean of its ratios to gcc -O2, and one for each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        wasm = _build_wasm(Path(folder))
        native, by_clang = (_build_native(Path(folder), *compiler) for compiler in COMPILERS)
        wasmer = _Wasmer(wasm)
        sides = {
            "gcc": _native(native),
            "clang": _native(by_clang),
            "aot": _ours(_image(wasm, FEATURES.get(host_target(), ""))),
            "aot_least": _ours(_image(wasm, "")),
            "interp": _ours(wasm.read_bytes()),
            "wasmtime": _wasmtime(wasm.read_bytes()),
            "wasm3": _wasm3(wasm.read_bytes()),
        }
        if wasmer.process is not None:
            sides["wasmer"] = wasmer.kernels()
        try:
            return _rows(_time_all(sides, rounds))
        finally:
            wasmer.close()


def _build_wasm(folder: Path) -> Path:
    out = folder / "kernels.wasm"
    flags = ["-target", "wasm32-freestanding", "-O2", "-nostdlib", "-fno-builtin", "-Wl,--no-entry"]
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *flags, str(SOURCE), "-o", str(out)], check=True)
    return out


def _build_native(folder: Path, name: str, *compiler: str) -> Path:
    out = folder / f"kernels-{name}.so"
    subprocess.run([*compiler, "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(out)], check=True)
    return out


def _image(wasm: Path, cpu: str) -> bytes:
    return Compiler().compile(wasm.read_bytes(), host_target(), cpu).image


def _native(path: Path) -> dict[str, Kernel]:
    library = ctypes.CDLL(str(path))
    for name in KERNELS:
        getattr(library, name).restype = ctypes.c_uint32
    return {name: getattr(library, name) for name in KERNELS}


def _ours(code: bytes) -> dict[str, Kernel]:
    instance = Runtime().load(code).instantiate()
    return {name: instance.function(name) for name in KERNELS}


class _Wasmer:
    """A process with wasmer 1.1, where there is a Python 3.10 (`make bench` looks for one)."""

    def __init__(self, wasm: Path) -> None:
        self.process = None
        if WASMER.exists():
            command = [str(WASMER), str(Path(__file__).with_name("wasmer_peer.py")), str(wasm)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            if self.process.stdout.readline() != "ready\n":
                raise RuntimeError("wasmer does not start")

    def kernels(self) -> dict[str, Kernel]:
        def call(name: str, count: int) -> int:
            self.process.stdin.write(f"{name} {count}\n")
            return int(self.process.stdout.readline())

        return {name: functools.partial(call, name) for name in KERNELS}

    def close(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


def _wasmtime(wasm: bytes) -> dict[str, Kernel]:
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, wasm), []).exports(store)
    return {name: lambda count, call=exports[name]: call(store, count) for name in KERNELS}


def _wasm3(wasm: bytes) -> dict[str, Kernel]:
    environment = wasm3.Environment()
    runtime = environment.new_runtime(64 * 1024)
    runtime.load(environment.parse_module(wasm))
    return {name: runtime.find_function(name) for name in KERNELS}


def _time_all(sides: dict[str, dict[str, Kernel]], rounds: int) -> dict[str, dict[str, float]]:
    """Best seconds for the full count, by side and kernel; results are compared."""
    best: dict[str, dict[str, float]] = {side: dict.fromkeys(KERNELS, math.inf) for side in sides}
    for kernel, count in KERNELS.items():
        expected = {n: sides["gcc"][kernel](n) for n in (count, count // SLOW)}
        for _ in range(rounds):
            for side, functions in sides.items():
                times = count // SLOW if side in ("interp", "wasm3") else count
                started = time.perf_counter()
                found = functions[kernel](times) & 0xFFFFFFFF
                spent = (time.perf_counter() - started) * count / times
                if found != expected[times]:
                    raise AssertionError(f"{side} computes {kernel} as {found}, gcc as {expected[times]}")
                best[side][kernel] = min(best[side][kernel], spent)
    return best


def _rows(best: dict[str, dict[str, float]]) -> list[Row]:
    ratios = {side: {k: best["gcc"][k] / spent for k, spent in times.items()} for side, times in best.items()}
    means = {side: math.exp(sum(map(math.log, each.values())) / len(each)) for side, each in ratios.items()}
    floor = "1 is gcc -O2"
    rows = [
        Row("aot_vs_gcc", means["aot"], "x", "wasmtime-py", means["wasmtime"], floor, 1.0),
        Row("aot_least_cpu_vs_gcc", means["aot_least"], "x", "wasmtime-py", means["wasmtime"], floor, 1.0),
        Row("interp_vs_gcc", means["interp"], "x", "pywasm3", means["wasm3"], floor, 1.0),
    ]
    for k in KERNELS:
        others = {side: ratios[side][k] for side in ratios if side not in ("gcc", "aot")}
        rows.append(Row(f"aot_vs_gcc_{k}", ratios["aot"][k], "x", "wasmtime-py", ratios["wasmtime"][k], floor, 1.0, others))
    rows[0].others.update({side: means[side] for side in ratios if side not in ("gcc", "aot")})
    return rows
