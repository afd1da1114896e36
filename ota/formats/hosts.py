"""Other hosts than boards, by the imports that toolchains leave in modules: whose they are, and what makes a module without."""

import re
from collections.abc import Iterable, Iterator

__all__ = ["explained"]

_HOSTS = (
    (
        r"(?:__wbindgen_placeholder__|__wbindgen_externref_xform__|wbg|\./\w+_bg\.js)\..*|.*\.__(?:wbg|wbindgen)_\w+",
        "wasm-bindgen makes modules for JavaScript: build the crate without it, as `ota new --lang rust` does",
    ),
    (
        r"a\.\w{1,3}|env\.(?:_?emscripten_|_?_syscall_|invoke_|_embind_|_emval_|__assert_fail$|_\w+_js$).*",
        "Emscripten makes modules for JavaScript: emcc -sSTANDALONE_WASM --no-entry, or clang for wasm32-wasip1",
    ),
    (
        r"(?:gojs|go)\..*",
        "Go for js/wasm makes modules for JavaScript: GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared",
    ),
    (r"env\.(?:abort|trace|seed|Date\.now)", "AssemblyScript's library: asc --use abort= and without trace and the time"),
    (r"\w+\.napi_\w+", "an addon of Node.js: build its library without Node-API"),
    (r"env\.(?:__cxa_\w+|_Unwind_\w+)", "exceptions of C++ or Rust: clang -fno-exceptions, rustc -C panic=abort"),
    (r"wasm:(?:js-string|text-encoder|text-decoder)\..*", "JavaScript's own functions: a build for WASI"),
    (r"wasi_unstable\..*", "WASI of before preview 1: a toolchain from 2020 or later"),
    (r"wasi\.thread-spawn", "threads: the target wasm32-wasip1 instead of wasm32-wasip1-threads"),
    (r"extism:host/\w+\..*", "Extism's plug-in kit: export events.handle instead, as the templates of `ota new` do"),
    (r"javy_\w+\..*", "Javy's engine as a module of its own: `ota new --lang javascript`"),
)


def explained(imports: Iterable[tuple[str, str]]) -> Iterator[str]:
    """For people: what to do about imports that no board has, a phrase for each host that is known."""
    names = [f"{module}.{function}" for module, function in imports]
    for pattern, told in _HOSTS:
        if any(re.fullmatch(pattern, each) for each in names):
            yield told
