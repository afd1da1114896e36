"""One module of the contract in one runtime, in this process alone: what bench.guests starts.

    python -m bench.guest_side ours|wasmtime|wasmtime_cached FILE DESCRIPTION.toml EVENTS

Prints a line of JSON. Times begin when the imports are done, and contain reading the file.
"""

import json
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOPIC, PAYLOAD, ANSWER = "in/x", b"hello", [("readings/sum", b"532")]
Handle = Callable[[], list[tuple[str, bytes]]]


def ours(file: Path, description: dict[str, Any]) -> Callable[[], Handle]:
    """As a worker of a board holds it: each import checked, topics against grants, effects held back until the event is over."""
    from device_agent.sandbox.contract import ModuleHost
    from ota.formats.capabilities import Capabilities
    from ota.formats.module import Limits, ModuleDescription

    capabilities = Capabilities.parse(description["capabilities"], "bench")
    limits = Limits.parse(description["limits"] | {"messages_per_s": 1_000_000}, "bench")
    about = ModuleDescription("bench", "1", capabilities, limits)

    def start() -> Handle:
        host = ModuleHost(file.read_bytes(), about, {}, lambda *_: None)
        host.begin(b"", {})
        return lambda: list(host.handle(TOPIC, PAYLOAD).messages)

    return start


def wasmtime(file: Path, cached: bool) -> Callable[[], Handle]:
    """The least that makes the same core module answer: no grants and no limits are looked at."""
    import wasmtime as w

    i32 = w.ValType.i32()

    def start() -> Handle:
        engine = w.Engine()
        store, linker = w.Store(engine), w.Linker(engine)
        module = w.Module.deserialize_file(engine, str(file)) if cached else w.Module(engine, file.read_bytes())
        store.set_wasi(w.WasiConfig())
        linker.define_wasi()
        sent: list[tuple[str, bytes]] = []

        def publish(topic: int, topic_size: int, payload: int, payload_size: int, area: int) -> None:
            memory = exports["memory"]
            read = [bytes(memory.read(store, at, at + size)) for at, size in ((topic, topic_size), (payload, payload_size))]
            sent.append((read[0].decode(), read[1]))
            memory.write(store, b"\0", area)

        linker.define_func("device:module/messaging@0.1.0", "publish", w.FuncType([i32] * 5, []), publish)
        exports = linker.instantiate(store, module).exports(store)
        names = set(exports)
        for name in ("_initialize", "__wasm_call_ctors"):
            if name in names:
                exports[name](store)
                break
        allocate, run = exports["cabi_realloc"], exports["device:module/events@0.1.0#handle"]
        post = (
            exports["cabi_post_device:module/events@0.1.0#handle"]
            if "cabi_post_device:module/events@0.1.0#handle" in names
            else None
        )

        def handle() -> list[tuple[str, bytes]]:
            sent.clear()
            values = []
            for each in (TOPIC.encode(), PAYLOAD):
                at = allocate(store, 0, 0, 1, len(each))
                exports["memory"].write(store, each, at)
                values += [at, len(each)]
            area = run(store, *values)
            if exports["memory"].read(store, area, area + 1) != b"\0":
                raise RuntimeError("the module answered with an error")
            if post is not None:
                post(store, area)
            return sent

        return handle

    return start


def rss_mb() -> float:
    """Of this process, now."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def main(side: str, file: str, description: str, events: str) -> int:
    about = tomllib.loads(Path(description).read_text())
    start = ours(Path(file), about) if side == "ours" else wasmtime(Path(file), side == "wasmtime_cached")
    before_mb, cpu_s, began = rss_mb(), time.process_time(), time.perf_counter()
    handle = start()
    started = time.perf_counter()
    first = list(handle())
    answered, cpu_s = time.perf_counter(), time.process_time() - cpu_s
    if first != ANSWER:
        raise RuntimeError(f"{side}: {first} instead of {ANSWER}")
    for _ in range(int(events)):
        handle()
    spent = time.perf_counter() - answered
    memory_mb = rss_mb()
    found = {
        "start_ms": (started - began) * 1e3,
        "first_event_ms": (answered - began) * 1e3,
        "first_cpu_ms": cpu_s * 1e3,
        "event_us": spent / int(events) * 1e6,
        "rss_mb": memory_mb,
        "module_mb": memory_mb - before_mb,
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
