"""A module of our contract in WASI 0.2: it prints an event's payload, and answers with the file that the topic names."""

from tests.support.wat import wat

IMPORTS = """
  (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
  (import "wasi:cli/environment@0.2.0" "get-arguments" (func $arguments (param i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush" (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop_output (param i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]input-stream" (func $drop_input (param i32)))
  (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $folders (param i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.read-via-stream" (func $stream (param i32 i64 i32)))
  (import "wasi:filesystem/types@0.2.0" "[resource-drop]descriptor" (func $drop (param i32)))"""
FUNCTIONS = """
  (func $answer (param $at i32) (param $size i32) (result i32)
    (i32.store8 (i32.const 64) (i32.const 1))
    (i32.store (i32.const 68) (local.get $at))
    (i32.store (i32.const 72) (local.get $size))
    (i32.const 64))
  (func $code (param $at i32) (result i32) ;; "A" for the first error code, and so on
    (i32.store8 (i32.const 100) (i32.add (i32.load8_u (local.get $at)) (i32.const 65)))
    (call $answer (i32.const 100) (i32.const 1)))"""
BODY = """
  (local $out i32) (local $file i32) (local $stream i32)
  (local.set $out (call $stdout))
  (call $write (local.get $out) (local.get $payload) (local.get $size) (i32.const 200))
  (call $drop_output (local.get $out))
  (call $folders (i32.const 220))
  (call $open (i32.load (i32.load (i32.const 220))) (i32.const 1) (local.get $topic) (local.get $topic_size)
    (i32.const 0) (i32.const 1) (i32.const 240))
  (call $drop (i32.load (i32.load (i32.const 220))))
  (if (i32.load8_u (i32.const 240)) (then (return (call $code (i32.const 244)))))
  (local.set $file (i32.load (i32.const 244)))
  (call $stream (local.get $file) (i64.const 1) (i32.const 260))
  (if (i32.load8_u (i32.const 260)) (then (call $drop (local.get $file)) (return (call $code (i32.const 264)))))
  (local.set $stream (i32.load (i32.const 264)))
  (call $read (local.get $stream) (i64.const 100) (i32.const 280))
  (call $drop_input (local.get $stream))
  (call $drop (local.get $file))
  (if (i32.load8_u (i32.const 280)) (then (return (call $answer (i32.const 0) (i32.const 0)))))
  (call $answer (i32.load (i32.const 284)) (i32.load (i32.const 288)))"""


def reader() -> bytes:
    """The module."""
    return wat(f"""(module {IMPORTS}
      (memory (export "memory") 1)
      (global $bump (mut i32) (i32.const 4096))
      {FUNCTIONS}
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (global.set $bump (i32.and (i32.add (global.get $bump) (i32.const 7)) (i32.const -8)))
        (global.get $bump)
        (global.set $bump (i32.add (global.get $bump) (local.get 3))))
      (func (export "cabi_post_device:module/events@0.1.0#handle") (param i32) (global.set $bump (i32.const 4096)))
      (func (export "device:module/events@0.1.0#handle")
        (param $topic i32) (param $topic_size i32) (param $payload i32) (param $size i32) (result i32) {BODY}))""")
