#!/usr/bin/env bash
# wasi-libc of Debian 12 (0.0~git20221206) with Wasmtime 50.0.1 (PyPI) and Node.js: of what a reactor prints, the first line arrives.
#
# A good engineer would guess: a module that prints a line at each event prints all of them, at once on a terminal and a little later into a
#   pipe, as C programs do; where nothing is flushed, nothing comes at all.
# What happens: the first line comes at once, everywhere. On a terminal so do the others. Into a pipe or a file none of them ever does: the
#   library asks what the output is when it writes for the first time, and gathers lines from then on. A command flushes them as it ends,
#   by `exit`; a reactor has no end, so they go when the host drops the instance. Only what exceeds the buffer (1,024 bytes) is written.
# Why it matters here: a module of ours is a reactor. One line in the log and no second looks as if the second event had never come, and the same
#   module does well on its author's terminal. Our host says of its output that it is a terminal, in WASI 0.1 and, since this was found, in
#   0.2, so each line goes to the board's log at once. In other hosts `setvbuf(stdout, 0, _IOLBF, 0)` helps.
# From Debian 12: clang-14, lld-14 and wasi-libc, unpacked and not installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq clang-14 lld-14 libllvm14 libclang-cpp14 libclang-common-14-dev libclang-rt-14-dev-wasm32 wasi-libc 2> /dev/null
for each in *.deb; do dpkg -x "$each" root; done
export LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu
python3 -m venv venv
venv/bin/pip install -q wasmtime==50.0.1
cat > blink.c <<'C'
#include <stdio.h>

__attribute__((export_name("event"))) void event(int number) { printf("event %d\n", number); }
C
llvm=root/usr/lib/llvm-14/bin
PATH="$folder/$llvm:$PATH" "$llvm/clang" --target=wasm32-wasi --sysroot="$folder/root/usr" -mexec-model=reactor -O1 blink.c -o blink.wasm
unset LD_LIBRARY_PATH
cat > host.py <<'PYTHON'
from wasmtime import Engine, Linker, Module, Store, WasiConfig

engine = Engine()
linker, store, wasi = Linker(engine), Store(engine), WasiConfig()
linker.define_wasi()
wasi.inherit_stdout()
store.set_wasi(wasi)
exports = linker.instantiate(store, Module.from_file(engine, "blink.wasm")).exports(store)
exports["_initialize"](store)
for number in range(1, 6):
    exports["event"](store, number)
PYTHON
cat > host.mjs <<'JAVASCRIPT'
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";

const wasi = new WASI({ version: "preview1" });
const { instance } = await WebAssembly.instantiate(readFileSync("blink.wasm"), wasi.getImportObject());
wasi.initialize(instance);
for (let number = 1; number <= 5; number++) instance.exports.event(number);
JAVASCRIPT
cat > seen.py <<'PYTHON'
import os
import pty
import subprocess
import sys

HOSTS = {"Wasmtime": ("venv/bin/python", "host.py"), "Node.js": ("node", "--no-warnings", "host.mjs")}


def on_terminal(command):
    main, terminal = pty.openpty()
    subprocess.run(command, check=True, stdout=terminal)
    os.close(terminal)
    came = b""
    try:
        while part := os.read(main, 4096):
            came += part
    except OSError:  # the other end is closed
        pass
    return came


good = True
for name, command in HOSTS.items():
    piped = subprocess.run(command, check=True, capture_output=True).stdout.decode().splitlines()
    shown = on_terminal(command).decode().splitlines()
    print(f"{name}: into a pipe {piped}, on a terminal {shown}")
    good = good and piped == ["event 1"] and shown == [f"event {number}" for number in range(1, 6)]
sys.exit(0 if good else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs, with Node.js 20:
#   Wasmtime: into a pipe ['event 1'], on a terminal ['event 1', 'event 2', 'event 3', 'event 4', 'event 5']
#   Node.js: into a pipe ['event 1'], on a terminal ['event 1', 'event 2', 'event 3', 'event 4', 'event 5']
