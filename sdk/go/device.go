// Package device is what a module and its board say to each other: device:module@0.1.0, by the Component Model's canonical ABI.
//
// Handle what the board sends in an init function: OnEvent always, the others as needed, each in a package of its own below this one
// (startup, timer, health, state), since a module has just the abilities that it exports. No goroutine runs between two calls.
package device

import (
	"errors"
	"runtime"
	"unsafe"
)

// Errors of capabilities.
var (
	ErrDenied    = errors.New("denied: the manifest does not ask for it, or the board does not grant it")
	ErrFailed    = errors.New("failed: the board's log says more")
	ErrTooLarge  = errors.New("too large")
	ErrQueueFull = errors.New("the queue is full")
)

// Level of a log line.
type Level uint32

// Levels, from the least to the most important.
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
)

var handle func(topic string, payload []byte) error

// OnEvent says what handles events. An error refuses the event: what was published and kept meanwhile is dropped.
func OnEvent(handler func(topic string, payload []byte) error) { handle = handler }

// What the host has written into memory of ours stays until the call is over, whoever else refers to it.
var kept [][]byte

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	if size == 0 {
		return unsafe.Pointer(uintptr(align))
	}
	room := make([]byte, size+align)
	kept = append(kept, room)
	start := unsafe.Pointer(unsafe.SliceData(room))
	at := unsafe.Pointer((uintptr(start) + uintptr(align) - 1) &^ (uintptr(align) - 1))
	if oldSize > 0 {
		copy(unsafe.Slice((*byte)(at), size), unsafe.Slice((*byte)(old), min(oldSize, size)))
	}
	return at
}

//go:wasmexport device:module/events@0.1.0#handle
func exportHandle(topic, payload string) unsafe.Pointer {
	return Result(func() error { return handle(string([]byte(topic)), []byte(payload)) })
}

var result struct {
	failed uint32
	text   uint32
	size   uint32
}
var failure []byte

// Result is for the packages below this one: it makes the answer of an export, result<_, string>, out of what a function returns.
func Result(call func() error) unsafe.Pointer {
	err := call()
	kept = nil
	result.failed, failure = 0, nil
	if err != nil {
		failure = []byte(err.Error())
		result.failed, result.size = 1, uint32(len(failure))
		result.text = uint32(uintptr(unsafe.Pointer(unsafe.SliceData(failure))))
	}
	return unsafe.Pointer(&result)
}

// area is where the host writes results that are no single number.
type area [4]uint32

func (a *area) failed() bool { return a[0]&0xff != 0 }

func (a *area) bytes(at int) []byte {
	if a[at+1] == 0 {
		return []byte{}
	}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(uintptr(a[at]))), a[at+1])...)
}

func text(value []byte) string { return unsafe.String(unsafe.SliceData(value), len(value)) }

//go:wasmimport device:module/logging@0.1.0 log
func hostLog(level uint32, message string)

// Log writes a line. Needs the capability logging.
func Log(level Level, message string) { hostLog(uint32(level), message) }

//go:wasmimport device:module/messaging@0.1.0 publish
func hostPublish(topic, payload string, out unsafe.Pointer)

// Publish sends a message once the event in hand has been handled: ErrDenied, ErrTooLarge, ErrQueueFull. Needs messaging.
func Publish(topic string, payload []byte) error {
	var out area
	hostPublish(topic, text(payload), unsafe.Pointer(&out))
	runtime.KeepAlive(payload)
	if !out.failed() {
		return nil
	}
	switch out[0] >> 8 & 0xff {
	case 0:
		return ErrDenied
	case 1:
		return ErrTooLarge
	}
	return ErrQueueFull
}

//go:wasmimport device:module/keyvalue@0.1.0 get
func hostGet(key string, out unsafe.Pointer)

//go:wasmimport device:module/keyvalue@0.1.0 set
func hostSet(key, value string, out unsafe.Pointer)

//go:wasmimport device:module/keyvalue@0.1.0 delete
func hostDelete(key string, out unsafe.Pointer)

// Get gives the value of a key, and whether it has one. Needs keyvalue.
func Get(key string) ([]byte, bool) {
	var out area
	hostGet(key, unsafe.Pointer(&out))
	return out.option()
}

// Set keeps a value once the event in hand has been handled. The error has the board's words. Needs keyvalue.
func Set(key string, value []byte) error {
	var out area
	hostSet(key, text(value), unsafe.Pointer(&out))
	runtime.KeepAlive(value)
	return out.told()
}

// Delete ends a key once the event in hand has been handled. Needs keyvalue.
func Delete(key string) error {
	var out area
	hostDelete(key, unsafe.Pointer(&out))
	return out.told()
}

//go:wasmimport device:module/clock@0.1.0 now
func hostNow() int64

//go:wasmimport device:module/clock@0.1.0 monotonic
func hostMonotonic() int64

// Now is the time of day as far as the board knows it, in nanoseconds since 1970-01-01 UTC. Needs clock.
func Now() int64 { return hostNow() }

// Monotonic never goes back, in nanoseconds since an arbitrary moment. Needs clock.
func Monotonic() int64 { return hostMonotonic() }

//go:wasmimport device:module/config@0.1.0 get
func hostConfig(key string, out unsafe.Pointer)

// Config gives a setting of the deployment or of the board's owner, and whether there is one. Needs config.
func Config(key string) (string, bool) {
	var out area
	hostConfig(key, unsafe.Pointer(&out))
	value, found := out.option()
	return string(value), found
}

//go:wasmimport device:module/random@0.1.0 get
func hostRandom(size uint32, out unsafe.Pointer)

// Random gives so many random bytes of the kernel's, 64 KiB at most. Needs random.
func Random(size int) []byte {
	var out area
	hostRandom(uint32(size), unsafe.Pointer(&out))
	return out.bytes(0)
}

//go:wasmimport device:module/gpio@0.1.0 read
func hostReadLine(line string, out unsafe.Pointer)

//go:wasmimport device:module/gpio@0.1.0 write
func hostWriteLine(line string, value uint32, out unsafe.Pointer)

// ReadLine gives the level of a GPIO line such as "gpiochip0:17": ErrDenied, ErrFailed. Needs gpio.
func ReadLine(line string) (bool, error) {
	var out area
	hostReadLine(line, unsafe.Pointer(&out))
	return out[0]>>8&0xff == 1 && !out.failed(), out.device(out[0] >> 8)
}

// WriteLine sets a GPIO line: ErrDenied, ErrFailed. Needs gpio.
func WriteLine(line string, value bool) error {
	var out area
	var level uint32
	if value {
		level = 1
	}
	hostWriteLine(line, level, unsafe.Pointer(&out))
	return out.device(out[0] >> 8)
}

//go:wasmimport device:module/serial@0.1.0 read
func hostReadPort(port string, limit uint32, out unsafe.Pointer)

//go:wasmimport device:module/serial@0.1.0 write
func hostWritePort(port, data string, out unsafe.Pointer)

// ReadPort gives what has arrived at a serial port such as "/dev/ttyUSB0", at most so many bytes; it never waits. Needs serial.
func ReadPort(port string, limit int) ([]byte, error) {
	var out area
	hostReadPort(port, uint32(limit), unsafe.Pointer(&out))
	if err := out.device(out[1]); err != nil {
		return nil, err
	}
	return out.bytes(1), nil
}

// WritePort writes all of it to a serial port: ErrDenied, ErrFailed. Needs serial.
func WritePort(port string, data []byte) error {
	var out area
	hostWritePort(port, text(data), unsafe.Pointer(&out))
	runtime.KeepAlive(data)
	return out.device(out[0] >> 8)
}

// option<list<u8>>, option<string>
func (a *area) option() ([]byte, bool) {
	if a[0]&0xff == 0 {
		return nil, false
	}
	return a.bytes(1), true
}

// result<_, string>
func (a *area) told() error {
	if !a.failed() {
		return nil
	}
	return errors.New(string(a.bytes(1)))
}

func (a *area) device(code uint32) error {
	switch {
	case !a.failed():
		return nil
	case code&0xff == 0:
		return ErrDenied
	}
	return ErrFailed
}
