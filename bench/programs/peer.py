"""One side of a program in a process of its own: python -m bench.programs.peer ENGINE FILE

Answers "ready", then each line of its input, how often to run, with the checksum and the nanoseconds. It imports what its engine
needs and nothing else: wasmer's side runs in a Python 3.10 that has no more than wasmer.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

Run = Callable[[int], int]


def ours(code: bytes) -> Run:
    from pywamr import Runtime

    instance = Runtime().load(code, 64 * 1024 * 1024).instantiate(stack_bytes=1 << 20)
    if b"_initialize" in code:  # the name of the export stands in the file as it is, in an image too
        instance.call("_initialize")
    return instance.function("run")


def wasmtime(code: bytes) -> Run:
    import wasmtime as engine

    store = engine.Store()
    exports = engine.Instance(store, engine.Module(store.engine, code), []).exports(store)
    if "_initialize" in exports:
        exports["_initialize"](store)
    return lambda times: exports["run"](store, times)


def wasm3(code: bytes) -> Run:
    import wasm3 as engine

    environment = engine.Environment()
    runtime = environment.new_runtime(1 << 20)
    runtime.load(environment.parse_module(code))
    if b"_initialize" in code:
        runtime.find_function("_initialize")()
    return runtime.find_function("run")


def wasmer(code: bytes) -> Run:
    import wasmer as engine
    from wasmer_compiler_cranelift import Compiler

    store = engine.Store(engine.engine.JIT(Compiler))
    exports = engine.Instance(engine.Module(store, code), engine.ImportObject()).exports
    if b"_initialize" in code:
        exports._initialize()
    return exports.run


def main() -> None:
    engine, path = sys.argv[1:]
    run = {"ours": ours, "wasmtime": wasmtime, "wasm3": wasm3, "wasmer": wasmer}[engine](Path(path).read_bytes())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        started = time.perf_counter_ns()
        found = run(int(line)) & 0xFFFFFFFF
        sys.stdout.write(f"{found} {time.perf_counter_ns() - started}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
