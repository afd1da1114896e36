"""Imports that are meant for another host than a board are told apart, with what to do about them."""

import pytest
import wasmtime

from ota.formats.capabilities import Capabilities, check_imports
from ota.formats.describe import describe
from ota.formats.reasons import Reason, Refused

IMPORTS = {
    "wasm-bindgen": [
        ("__wbindgen_placeholder__", "__wbindgen_throw"),
        ("wbg", "__wbg_stack_0ddaca5d1abfb52f"),
        ("./brotli_bg.js", "__wbindgen_is_object"),
    ],
    "Emscripten": [("a", "a"), ("a", "Ab"), ("env", "emscripten_memcpy_big"), ("env", "__syscall_fstat64"), ("env", "invoke_viii"),
                   ("env", "_tzset_js"), ("env", "__assert_fail")],
    "GOOS=wasip1": [("gojs", "syscall/js.valueGet"), ("go", "runtime.wasmExit")],
    "asc --use abort=": [("env", "abort")],
    "exceptions of C++": [("env", "__cxa_throw"), ("env", "_Unwind_RaiseException")],
    "Node-API": [("env", "napi_typeof")],
    "JavaScript's own functions": [("wasm:js-string", "length")],
    "preview 1": [("wasi_unstable", "fd_write")],
    "instead of wasm32-wasip1-threads": [("wasi", "thread-spawn")],
    "Extism": [("extism:host/env", "alloc")],
    "Javy": [("javy_quickjs_provider_v3", "invoke")],
    "ask for wasi in [capabilities]": [("wasi_snapshot_preview1", "fd_write")],
    "ask for filter in [capabilities]": [("env", "proxy_log")],
    "ask for logging in [capabilities]": [("device:module/logging@0.1.0", "log")],
}  # fmt: skip


@pytest.mark.parametrize(("told", "one"), [(told, each) for told, every in IMPORTS.items() for each in every])
def test_an_import_says_what_to_do_about_it(told, one):
    with pytest.raises(Refused) as refusal:
        check_imports([one], Capabilities({}))
    assert refusal.value.reason is Reason.IMPORT_UNDECLARED
    assert told in refusal.value.detail
    assert sum(each in refusal.value.detail for each in IMPORTS) == 1


def test_an_import_that_nobody_is_known_for_is_named_and_nothing_more():
    with pytest.raises(Refused) as refusal:
        check_imports([("dprint", "host_format"), ("env", "aborted")], Capabilities({}))
    assert refusal.value.detail == "the module imports what its manifest does not declare: dprint.host_format, env.aborted"


def test_inspecting_says_it_once_for_many_imports():
    wasm = bytes(wasmtime.wat2wasm('(module (import "a" "a" (func)) (import "a" "b" (func)) (import "a" "c" (func)))'))
    found = describe(wasm)
    assert [text for label, text in found.rows if label == "what helps"] == found.values["what_helps"]
    assert [each.partition(" ")[0] for each in found.values["what_helps"]] == ["Emscripten"]
