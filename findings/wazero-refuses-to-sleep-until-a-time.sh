#!/usr/bin/env bash
# wazero 1.12 (Go) beside Wasmtime 50.0.1 (PyPI): WASI's `poll_oneoff` with an absolute time is refused there, at once.
#
# A good engineer would guess: WASI 0.1 has a flag for "until", `subscription_clock_abstime`, since its first day, and a host that offers
#   `poll_oneoff` knows it. wasi-libc makes it of `clock_nanosleep(…, TIMER_ABSTIME, …)`, by which programs in C keep a period.
# What happens: with the flag wazero answers NOTSUP (58) without waiting, for both clocks; without the flag it waits. Wasmtime waits in all
#   four cases. A loop that samples "every 200 ms from the last time on" and looks at no result runs as fast as it can.
# Why it matters here: authors try modules where they are at home. One that keeps its period on boards, whose host knows the flag, floods in
#   wazero, and one that was made to please wazero drifts. The clocks and the waiting are switched on here: they are off by default.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q wasmtime==50.0.1
cat > sleep.wat <<'WAT'
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  ;; Sleeps for so many nanoseconds of this clock: relative (0), or until that time (1). The error.
  (func (export "sleep") (param $clock i32) (param $nanoseconds i64) (param $until i32) (result i32)
    (if (local.get $until) (then
      (drop (call $now (local.get $clock) (i64.const 1) (i32.const 200)))
      (local.set $nanoseconds (i64.add (local.get $nanoseconds) (i64.load (i32.const 200))))))
    (i32.store (i32.const 16) (local.get $clock))
    (i64.store (i32.const 24) (local.get $nanoseconds))
    (i32.store16 (i32.const 40) (local.get $until))
    (i32.or
      (call $poll (i32.const 0) (i32.const 104) (i32.const 1) (i32.const 304))
      (i32.load16_u (i32.const 112))))
)
WAT
cat > seen.py <<'PYTHON'
import time
from importlib.metadata import version

from wasmtime import Engine, Linker, Module, Store, WasiConfig, wat2wasm

with open("sleep.wat") as text, open("sleep.wasm", "wb") as made:
    made.write(wat2wasm(text.read()))
engine = Engine()
linker, store = Linker(engine), Store(engine)
linker.define_wasi()
store.set_wasi(WasiConfig())
sleep = linker.instantiate(store, Module.from_file(engine, "sleep.wasm")).exports(store)["sleep"]
for clock, name in enumerate(("realtime", "monotonic")):
    for until in (0, 1):
        began = time.monotonic()
        error = sleep(store, clock, 200_000_000, until)
        print(f"wasmtime {version('wasmtime')} {name} until={until} error={error} waited={time.monotonic() - began > 0.19}")
PYTHON
cat > main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

func main() {
	ctx := context.Background()
	runtime := wazero.NewRuntime(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, runtime)
	code, _ := os.ReadFile("sleep.wasm")
	config := wazero.NewModuleConfig().WithSysWalltime().WithSysNanotime().WithSysNanosleep()
	module, err := runtime.InstantiateWithConfig(ctx, code, config)
	if err != nil {
		panic(err)
	}
	for clock, name := range []string{"realtime", "monotonic"} {
		for until := uint64(0); until < 2; until++ {
			began := time.Now()
			errors, err := module.ExportedFunction("sleep").Call(ctx, uint64(clock), 200_000_000, until)
			if err != nil {
				panic(err)
			}
			waited := time.Since(began) > 190*time.Millisecond
			fmt.Printf("wazero v1.12.0 %s until=%d error=%d waited=%t\n", name, until, errors[0], waited)
		}
	}
}
GO
venv/bin/python seen.py | tee said
export GOPATH=$folder/go GOFLAGS='-modcacherw -mod=mod'
go mod init seen 2> /dev/null
go get github.com/tetratelabs/wazero@v1.12.0 2> /dev/null
go run . | tee -a said
[ "$(grep -c 'wasmtime .* error=0 waited=True' said)" = 4 ]
[ "$(grep -c 'wazero .* until=0 error=0 waited=true' said)" = 2 ] && [ "$(grep -c 'wazero .* until=1 error=58 waited=false' said)" = 2 ]
# Seen on two runs:
#   wasmtime 50.0.1: error=0 waited=True, four times
#   wazero v1.12.0: until=0: error=0 waited=true; until=1: error=58 waited=false; both for realtime and monotonic
