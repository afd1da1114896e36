// Package health asks a module whether it is well, during a trial and from time to time after it.
package health

import (
	"unsafe"

	"boards/NAME/device"
)

var check func() error

// OnCheck says what is asked. An error is a fault of the module.
func OnCheck(handler func() error) { check = handler }

//go:wasmexport device:module/health@0.1.0#check
func export() unsafe.Pointer {
	return device.Result(check)
}
