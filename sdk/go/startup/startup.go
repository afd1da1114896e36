// Package startup lets a module do something once, before its first event and after its state was restored.
package startup

import (
	"unsafe"

	"boards/NAME/device"
)

var start func(config []byte) error

// OnStart says what is done. An error ends the start, with its text as the reason.
func OnStart(handler func(config []byte) error) { start = handler }

//go:wasmexport device:module/startup@0.1.0#init
func export(config string) unsafe.Pointer {
	return device.Result(func() error { return start([]byte(config)) })
}
