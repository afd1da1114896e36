"""Filters of proxy-wasm in WebAssembly text, whose every call is a test's."""

from device_agent.sandbox.filter import FilterHost, open_host
from ota.formats.capabilities import Capabilities
from ota.formats.module import Limits, ModuleDescription
from tests.support.wat import wat

GRANTED = {"filter": {}, "logging": {}, "keyvalue": {"quota_bytes": 200}}
TOPICS = {"publish": ["clean/#", "answers/#", "other/#"], "subscribe": ["raw/#"]}
OUT = 4096  # where host functions put what they answer


def probe(calls: str = "", action: str = "(i32.const 0)", *, configure: str = "(i32.const 1)", more: str = "") -> bytes:
    """At each message it does `calls`, each (function, parameters…) in text, notes the result of each, and makes them its body.

    With no calls the body stays what it was. `action` is what it answers. Text from address 0 on: `words`.
    """
    imports, body = {}, []
    for number, call in enumerate(each for each in calls.splitlines() if each.strip()):
        name, _, values = call.strip().partition(" ")
        kinds = " ".join("i64" if "i64.const" in each else "i32" for each in values.replace(") (", ")\n(").splitlines())
        imports[name] = f'(import "env" "{name}" (func ${name} (param {kinds}) (result i32)))'
        body.append(f"(i32.store8 (i32.const {2048 + number}) (call ${name} {values}))")
    put = '(import "env" "proxy_set_buffer_bytes" (func $put (param i32 i32 i32 i32 i32) (result i32)))'
    notes = f"(drop (call $put (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 2048) (i32.const {len(body)})))"
    return wat(f"""(module {" ".join(imports.values())} {put} (memory (export "memory") 2)
      (data (i32.const 0) "x-a") (data (i32.const 16) "value") (data (i32.const 32) ":path") (data (i32.const 48) "/other/y?z")
      (data (i32.const 64) "request\\00path\\00") (data (i32.const 96) "plugin_root_id")
      (global $next (mut i32) (i32.const 8192))
      (func (export "proxy_abi_version_0_2_1"))
      (func (export "proxy_on_memory_allocate") (param $size i32) (result i32) (local $at i32)
        (local.set $at (global.get $next)) (global.set $next (i32.add (local.get $at) (local.get $size))) (local.get $at))
      (func (export "proxy_on_context_create") (param i32 i32))
      (func (export "proxy_on_configure") (param i32 i32) (result i32) {configure})
      {more}
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        {" ".join(body)} {notes if body else ""} {action}))""")


def words(address: int, size: int) -> str:
    """Address and size as parameters."""
    return f"(i32.const {address}) (i32.const {size})"


def opened(wasm: bytes, config: dict[str, str] | None = None, log: list | None = None, **changes) -> FilterHost:
    """The filter, begun."""
    capabilities = Capabilities.parse(GRANTED | {"messaging": TOPICS} | changes, "test")
    lines = [] if log is None else log
    host = open_host(
        wasm,
        ModuleDescription("f", "1", capabilities, Limits(tick_ms=10)),
        config or {"routes": "raw/#=clean/#"},
        lambda *each: lines.append(each),
    )
    host.begin(b"", {})
    return host
