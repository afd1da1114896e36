// Package state hands what a module knows to its successor, another version of it.
package state

import (
	"unsafe"

	"boards/NAME/device"
)

var (
	save    func() []byte
	restore func(state []byte) error
	saved   []byte
	result  [2]uint32
)

// OnSave says what is handed over, 64 KiB at most.
func OnSave(handler func() []byte) { save = handler }

// OnRestore says what is done with what a predecessor handed over. An error refuses it.
func OnRestore(handler func(state []byte) error) { restore = handler }

//go:wasmexport device:module/state@0.1.0#save
func exportSave() unsafe.Pointer {
	saved = save()
	result = [2]uint32{uint32(uintptr(unsafe.Pointer(unsafe.SliceData(saved)))), uint32(len(saved))}
	return unsafe.Pointer(&result)
}

//go:wasmexport device:module/state@0.1.0#restore
func exportRestore(state string) unsafe.Pointer {
	return device.Result(func() error { return restore([]byte(state)) })
}
