#!/usr/bin/env bash
# Wasmtime 50.0.1 (PyPI) beside Node.js and wazero 1.12.0 (Go): WASI's `fd_sync` of a folder is EBADF there.
#
# A good engineer would guess: who replaces a file for good writes another one, syncs it, renames it and syncs the folder, since a rename is no
#   more on the disk than data are. WASI 0.1 says of `fd_sync` "this is similar to fsync in POSIX", and there a folder can be synced.
# What happens: Wasmtime answers 8 (EBADF) for a folder, opened or handed in, while `fd_readdir` takes the same number. Files are synced.
#   Node.js and wazero answer 0. WasmEdge answers EBADF since 2026, to be like Wasmtime (pull request 4572).
# Why it matters here: a module that stores its state by these four steps fails in Wasmtime at the fourth, after the rename: it reports that
#   it failed at what has been done. Who takes the step out for that lacks it on boards, whose power is cut. Our host syncs folders
#   (`tests/agent/test_wasi.py`); a module may ignore EBADF of this call alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q wasmtime==50.0.1
mkdir shared shared/state
cat > sync.wat <<'WAT'
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_sync" (func $sync (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "state")
  (data (i32.const 8) "file")
  ;; Below the folder that was handed in (3). -1 where it is not opened, or the errors: 100 times that of fd_sync, and of fd_readdir.
  (func $tried (param $name i32) (param $size i32) (param $flags i32) (param $rights i64) (result i32)
    (local $number i32)
    (if (call $open (i32.const 3) (i32.const 0) (local.get $name) (local.get $size) (local.get $flags)
        (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 100))
      (then (return (i32.const -1))))
    (local.set $number (i32.load (i32.const 100)))
    (i32.mul (call $sync (local.get $number)) (i32.const 100))
    (if (result i32) (i32.and (local.get $flags) (i32.const 2))
      (then (call $readdir (local.get $number) (i32.const 200) (i32.const 500) (i64.const 0) (i32.const 100)))
      (else (i32.const 0)))
    (i32.add))
  ;; Flags: a folder, or make the file. Rights: fd_sync, and fd_readdir or fd_write.
  (func (export "folder") (result i32) (call $tried (i32.const 0) (i32.const 5) (i32.const 2) (i64.const 0x4010)))
  (func (export "file") (result i32) (call $tried (i32.const 8) (i32.const 4) (i32.const 1) (i64.const 0x50)))
  (func (export "handed_in") (result i32) (call $sync (i32.const 3)))
)
WAT
cat > seen.py <<'PYTHON'
from wasmtime import Engine, Linker, Module, Store, WasiConfig, wat2wasm

with open("sync.wat") as text, open("sync.wasm", "wb") as made:
    made.write(wat2wasm(text.read()))
engine = Engine()
linker, store, wasi = Linker(engine), Store(engine), WasiConfig()
linker.define_wasi()
wasi.preopen_dir("shared", "/")
store.set_wasi(wasi)
exports = linker.instantiate(store, Module.from_file(engine, "sync.wasm")).exports(store)
print("wasmtime", *(exports[name](store) for name in ("file", "folder", "handed_in")))
PYTHON
cat > seen.mjs <<'JAVASCRIPT'
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";

const wasi = new WASI({ version: "preview1", preopens: { "/": "shared" } });
const { instance } = await WebAssembly.instantiate(readFileSync("sync.wasm"), wasi.getImportObject());
wasi.initialize(instance);
console.log("node", instance.exports.file(), instance.exports.folder(), instance.exports.handed_in());
JAVASCRIPT
cat > main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

func main() {
	ctx := context.Background()
	runtime := wazero.NewRuntime(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, runtime)
	code, err := os.ReadFile("sync.wasm")
	if err != nil {
		panic(err)
	}
	config := wazero.NewModuleConfig().WithFSConfig(wazero.NewFSConfig().WithDirMount("shared", "/"))
	module, err := runtime.InstantiateWithConfig(ctx, code, config)
	if err != nil {
		panic(err)
	}
	fmt.Print("wazero")
	for _, name := range []string{"file", "folder", "handed_in"} {
		result, err := module.ExportedFunction(name).Call(ctx)
		if err != nil {
			panic(err)
		}
		fmt.Print(" ", int32(result[0]))
	}
	fmt.Println()
}
GO
export GOPATH=$folder/go GOFLAGS='-modcacherw -mod=mod'
go mod init seen 2> /dev/null
go get github.com/tetratelabs/wazero@v1.12.0 2> /dev/null
go build -o seen
{ venv/bin/python seen.py; node --no-warnings seen.mjs; ./seen; } | tee said
[ "$(cat said)" = "wasmtime 0 800 8
node 0 0 0
wazero 0 0 0" ]
# Seen on two runs, with Node.js 20 (a file; a folder, 100 times the error of fd_sync and that of fd_readdir; the folder handed in):
#   wasmtime 0 800 8
#   node 0 0 0
#   wazero 0 0 0
