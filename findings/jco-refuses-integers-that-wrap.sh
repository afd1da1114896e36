#!/usr/bin/env bash
# jco 1.35 (jco-transpile 0.15.0): a component whose u8, s8, u16 or bool has bits above its width works in Wasmtime and throws in JavaScript.
#
# A good engineer would guess: a component gives the same values in each host, or traps in each.
# What happens: the canonical ABI takes a small integer out of an i32 modulo its width (`lift_flat_unsigned`, `lift_flat_signed`), and a bool
#   is true where the i32 is not zero (`convert_int_to_bool`). Wasmtime does so: 0x181 is the u8 129, the s8 -127 and true. The code that
#   jco writes checks ranges instead, and throws where the upper bits are not what it expects; for a bool, at each number above 1.
# Why it matters here: compilers of C and Rust clear the upper bits, other writers of modules need not. Filters and modules for boards are
#   tried in JavaScript by their authors; one that fails there is not wrong. Our host follows the canonical ABI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q wasmtime==50.0.1
npm init -y > npm.log
npm install --no-audit --no-fund --ignore-scripts @bytecodealliance/jco-transpile@0.15.0 >> npm.log 2>&1
cat > wide.wat <<'WAT'
(component
  (core module $code (func (export "wide") (result i32) (i32.const 0x181)))
  (core instance $code (instantiate $code))
  (func (export "as-u8") (result u8) (canon lift (core func $code "wide")))
  (func (export "as-s8") (result s8) (canon lift (core func $code "wide")))
  (func (export "as-u32") (result u32) (canon lift (core func $code "wide")))
  (func (export "as-bool") (result bool) (canon lift (core func $code "wide"))))
WAT
cat > seen.mjs <<'JAVASCRIPT'
import { readFileSync, writeFileSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { transpile } from "@bytecodealliance/jco-transpile";
import { parse } from "@bytecodealliance/jco-transpile/wasm-tools";

writeFileSync("wide.wasm", await parse(readFileSync("wide.wat", "utf8")));
const { files } = await transpile("wide.wasm", { outDir: "out" });
for (const [path, content] of Object.entries(files)) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}
writeFileSync("out/package.json", '{"type": "module"}');
const component = await import("./out/wide.js");
const said = {};
for (const name of ["asU8", "asS8", "asU32", "asBool"]) {
  try {
    said[name] = String(component[name]());
  } catch (error) {
    said[name] = `${error.constructor.name}: ${error.message}`;
  }
}
console.log("jco", JSON.stringify(said));
JAVASCRIPT
cat > seen.py <<'PYTHON'
from importlib.metadata import version

from wasmtime import Engine, Store
from wasmtime.component import Component, Linker

engine = Engine()
store = Store(engine)
instance = Linker(engine).instantiate(store, Component.from_file(engine, "wide.wasm"))
said = {}
for name in ("as-u8", "as-s8", "as-u32", "as-bool"):
    function = instance.get_func(store, name)
    said[name] = function(store)
    function.post_return(store)
print("wasmtime", version("wasmtime"), said)
PYTHON
node seen.mjs | tee jco
venv/bin/python seen.py | tee wasmtime
grep -q "{'as-u8': 129, 'as-s8': -127, 'as-u32': 385, 'as-bool': True}" wasmtime
[ "$(grep -o '"as[A-Z][A-Za-z0-9]*":"[A-Za-z]*Error: ' jco | wc -l)" = 3 ] && grep -q '"asU32":"385"' jco
# Seen on two runs, with Node.js 20:
#   jco {"asU8":"TypeError: must be between 0 and 255","asS8":"TypeError: must be between -128 and 127","asU32":"385",
#     "asBool":"TypeError: invalid variant discriminant for bool"}
#   wasmtime 50.0.1 {'as-u8': 129, 'as-s8': -127, 'as-u32': 385, 'as-bool': True}
