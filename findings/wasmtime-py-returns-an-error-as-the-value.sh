#!/usr/bin/env bash
# wasmtime 50.0.1 (PyPI) beside jco (jco-transpile 0.15.0): where a component's function fails, Python gets the error as what it returned.
#
# A good engineer would guess: a `result` that is an error is raised, as jco throws it, or comes with a mark that says which case it is. So
#   `gpio.read("led")` gives True or False, or does not come back, and a test that calls `handle` fails where the module refuses.
# What happens: both cases come back bare, as long as their Python types differ: of a `result<bool, string>` True, False or the message,
#   which is true in an `if`; of a `result<_, string>` None or the message, which a test that looks at no result passes over. Only where
#   both cases have one type (`result<string, string>`) a Variant with a tag comes, so giving the good case a text changes what all callers
#   get. So it is on the way in: an import written in Python that returns a text has failed. Another project took the bare value for a
#   Variant until 2026, in code that its tests covered (rustfava, pull request 301).
# Why it matters here: `handle`, `init` and `tick` of our world are `result<_, string>`, what `gpio` and `serial` give are results of
#   two types, and Wasmtime's Python package is where authors try a component without a board. `assert handle(…) is None` there, and
#   look at the type of a value before it is used. Our tests that compare with Wasmtime compare what came back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q wasmtime==50.0.1
npm init -y > npm.log
npm install --no-audit --no-fund --ignore-scripts @bytecodealliance/jco-transpile@0.15.0 >> npm.log 2>&1
cat > failing.wat <<'WAT'
(component
  (import "set" (func $set (result (result (error string)))))
  (core module $memory (memory (export "memory") 1) (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 512)))
  (core instance $m (instantiate $memory))
  (core func $set-core (canon lower (func $set) (memory (core memory $m "memory")) (realloc (core func $m "realloc"))))
  (core module $code
    (import "m" "memory" (memory 1))
    (import "host" "set" (func $set (param i32)))
    (data (i32.const 100) "disk full")
    ;; An error, and its text.
    (func $fail (result i32)
      (i32.store (i32.const 0) (i32.const 1))
      (i32.store (i32.const 4) (i32.const 100))
      (i32.store (i32.const 8) (i32.const 9))
      (i32.const 0))
    (func (export "handle") (result i32) (call $fail))
    (func (export "read-text") (result i32) (call $fail))
    (func (export "read-line") (result i32) (call $fail))
    ;; Whether the import failed.
    (func (export "set-failed") (result i32) (call $set (i32.const 200)) (i32.load8_u (i32.const 200))))
  (core instance $c (instantiate $code
    (with "m" (instance $m)) (with "host" (instance (export "set" (func $set-core))))))
  (func (export "handle") (result (result (error string))) (canon lift (core func $c "handle") (memory (core memory $m "memory"))))
  (func (export "read-text") (result (result string (error string)))
    (canon lift (core func $c "read-text") (memory (core memory $m "memory"))))
  (func (export "read-line") (result (result bool (error string)))
    (canon lift (core func $c "read-line") (memory (core memory $m "memory"))))
  (func (export "set-failed") (result bool) (canon lift (core func $c "set-failed"))))
WAT
cat > seen.mjs <<'JAVASCRIPT'
import { readFileSync, writeFileSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { transpile } from "@bytecodealliance/jco-transpile";
import { parse } from "@bytecodealliance/jco-transpile/wasm-tools";

writeFileSync("failing.wasm", await parse(readFileSync("failing.wat", "utf8")));
writeFileSync("set.mjs", "export default () => {};\n");
const { files } = await transpile("failing.wasm", { outDir: "out", map: { set: "../set.mjs" } });
for (const [path, content] of Object.entries(files)) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}
writeFileSync("out/package.json", '{"type": "module"}');
const component = await import("./out/failing.js");
for (const name of ["handle", "readText", "readLine"]) {
  try {
    console.log("jco", name, "returned", component[name]());
  } catch (error) {
    console.log("jco", name, "threw", `${error.payload ?? error}`);
  }
}
JAVASCRIPT
cat > seen.py <<'PYTHON'
from importlib.metadata import version

from wasmtime import Engine, Store
from wasmtime.component import Component, Linker

engine = Engine()


def said(name, answer=None):
    """What a function of the component returns, while the import gives this answer."""
    store, linker = Store(engine), Linker(engine)
    with linker.root() as root:
        root.add_func("set", lambda _store: answer)
    instance = linker.instantiate(store, Component.from_file(engine, "failing.wasm"))
    return instance.get_func(store, name)(store)


print("wasmtime", version("wasmtime"))
for name in ("handle", "read-line", "read-text"):
    print("wasmtime", name, "returned", repr(said(name)))
print("wasmtime", "read-line is true in an if:", bool(said("read-line")))
print("wasmtime", "set that returns None has failed:", said("set-failed"), "- one that returns 'done':", said("set-failed", "done"))
PYTHON
node seen.mjs | tee jco
venv/bin/python seen.py | tee wasmtime
[ "$(grep -c 'threw disk full' jco)" = 3 ]
grep -q "handle returned 'disk full'" wasmtime
grep -q "read-line returned 'disk full'" wasmtime
grep -q "read-text returned Variant(tag='err', payload='disk full')" wasmtime
grep -q "None has failed: False - one that returns 'done': True" wasmtime
# Seen on two runs, with Node.js 20:
#   jco handle threw disk full (readText and readLine, too)
#   wasmtime handle returned 'disk full'
#   wasmtime read-line returned 'disk full'
#   wasmtime read-text returned Variant(tag='err', payload='disk full')
#   wasmtime read-line is true in an if: True
#   wasmtime set that returns None has failed: False - one that returns 'done': True
