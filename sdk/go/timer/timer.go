// Package timer calls a module at the period that its manifest asks for (tick_ms).
package timer

import (
	"unsafe"

	"boards/NAME/device"
)

var tick func(nowNs int64) error

// OnTick says what is done, given nanoseconds since 1970-01-01 UTC.
func OnTick(handler func(nowNs int64) error) { tick = handler }

//go:wasmexport device:module/timer@0.1.0#tick
func export(nowNs int64) unsafe.Pointer {
	return device.Result(func() error { return tick(nowNs) })
}
