"""A component's core module as wasmCloud's toolchain would make it, by hand: it counts messages, and answers or passes them on."""

from tests.support.wat import wat

INTERFACES = {
    "logging": "wasi:logging/logging",
    "store": "wasi:keyvalue/store@0.2.0-draft",
    "atomics": "wasi:keyvalue/atomics@0.2.0-draft",
    "config": "wasi:config/store@0.2.0-rc.1",
    "consumer": "wasmcloud:messaging/consumer@0.2.0",
}
CAPABILITIES = {
    "logging": {},
    "keyvalue": {"quota_bytes": 1000},
    "config": {},
    "messaging": {"subscribe": ["in/#"], "publish": ["out/#"]},
}
CONTEXT, TARGET, BUCKET, FALLBACK, NO = "handler", "target", "counts", "out/default", "told to fail"
_TEXTS = {100: CONTEXT, 120: TARGET, 140: BUCKET, 160: FALLBACK, 200: NO}
_PLACE = {text: at for at, text in _TEXTS.items()}


def _given(text: str) -> str:
    return f"(i32.const {_PLACE[text]}) (i32.const {len(text)})"


_REST = "(local.get $body) (local.get $body_size) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 360)"
_BODY = f"""
  (call $log (i32.const 2) {_given(CONTEXT)} (local.get $subject) (local.get $subject_size))
  (call $open {_given(BUCKET)} (i32.const 300))
  (if (i32.load8_u (i32.const 300)) (then unreachable))
  (call $increment (i32.load (i32.const 304)) (local.get $subject) (local.get $subject_size) (i64.const 1) (i32.const 320))
  (if (i32.load8_u (i32.const 320)) (then unreachable))
  (call $drop_bucket (i32.load (i32.const 304)))
  (if (i32.eqz (local.get $body_size)) (then
    (i32.store8 (i32.const 400) (i32.const 1))
    (i32.store (i32.const 404) (i32.const {_PLACE[NO]}))
    (i32.store (i32.const 408) (i32.const {len(NO)}))
    (return (i32.const 400))))
  (if (local.get $has_reply) (then
    (call $publish (local.get $reply) (local.get $reply_size) {_REST})
    (return (i32.const 360))))
  (call $get {_given(TARGET)} (i32.const 340))
  (if (i32.load8_u (i32.const 344)) (then
    (call $publish (i32.load (i32.const 348)) (i32.load (i32.const 352)) {_REST}))
  (else
    (call $publish {_given(FALLBACK)} {_REST})))
  (i32.const 360)"""
_PARAMS = "$subject $subject_size $body $body_size $has_reply $reply $reply_size"


def handler(*, canonical: bool = False) -> bytes:
    """The module, with the names of the one way or the other."""
    names, drop = dict(INTERFACES), "[resource-drop]bucket"
    handle, post, memory, allocator = "wasmcloud:messaging/handler@0.2.0#handle-message", "", "memory", "cabi_realloc"
    post = f"cabi_post_{handle}"
    if canonical:
        names = {key: f"cm32p2|{name.replace('@0.2.0' if key == 'consumer' else '?', '@0.2')}" for key, name in names.items()}
        handle, drop = "cm32p2|wasmcloud:messaging/handler@0.2|handle-message", "bucket_drop"
        post, memory, allocator = f"{handle}_post", "cm32p2_memory", "cm32p2_realloc"
    data = "\n".join(f'(data (i32.const {at}) "{text}")' for at, text in _TEXTS.items())
    params = " ".join(f"(param {each} i32)" for each in _PARAMS.split())
    return wat(f"""(module
      (import "{names["logging"]}" "log" (func $log (param i32 i32 i32 i32 i32)))
      (import "{names["store"]}" "open" (func $open (param i32 i32 i32)))
      (import "{names["store"]}" "{drop}" (func $drop_bucket (param i32)))
      (import "{names["atomics"]}" "increment" (func $increment (param i32 i32 i32 i64 i32)))
      (import "{names["config"]}" "get" (func $get (param i32 i32 i32)))
      (import "{names["consumer"]}" "publish" (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32)))
      (memory (export "{memory}") 1)
      {data}
      (global $bump (mut i32) (i32.const 4096))
      (func (export "{allocator}") (param i32 i32 i32 i32) (result i32)
        (global.set $bump (i32.and (i32.add (global.get $bump) (i32.const 7)) (i32.const -8)))
        (global.get $bump)
        (global.set $bump (i32.add (global.get $bump) (local.get 3))))
      (func (export "{post}") (param i32) (global.set $bump (i32.const 4096)))
      (func (export "{handle}") {params} (result i32) {_BODY}))""")


QUESTION, ANSWERS, TOLD = "local/question", "local/answers/1", "readings/told"
ASKER = {"messaging": {"subscribe": ["in/#", "local/answers/#"], "publish": ["local/question", "readings/#"]}}
_MESSAGES = """(module
  (import "wasmcloud:messaging/consumer@0.2.0" "publish" (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  {data}
  (global $bump (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $bump (i32.add (global.get $bump) (local.get 3)))
    (i32.sub (global.get $bump) (local.get 3)))
  (func (export "cabi_post_wasmcloud:messaging/handler@0.2.0#handle-message") (param i32) (global.set $bump (i32.const 4096)))
  (func (export "wasmcloud:messaging/handler@0.2.0#handle-message") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
    {body}
    (i32.const 360)))"""
_BODY_IN_HAND, _NO_REPLY = "(local.get 2) (local.get 3)", "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 360)"


def answerer() -> bytes:
    """Sends each message back to where an answer is waited for; traps where none is."""
    return wat(
        _MESSAGES.format(
            data="",
            body=f"""
    (if (i32.eqz (local.get 4)) (then unreachable))
    (call $publish (local.get 5) (local.get 6) {_BODY_IN_HAND} {_NO_REPLY})""",
        )
    )


def asker(reply_to: str = ANSWERS) -> bytes:
    """Passes on what it hears below in/ as a question, and tells what it hears elsewhere: the answers."""
    texts = {100: QUESTION, 140: reply_to, 180: TOLD}
    data = "\n".join(f'(data (i32.const {at}) "{text}")' for at, text in texts.items())
    body = f"""
    (if (i32.eq (i32.load8_u (local.get 0)) (i32.const 105)) (then
      (call $publish (i32.const 100) (i32.const {len(QUESTION)}) {_BODY_IN_HAND}
        (i32.const 1) (i32.const 140) (i32.const {len(reply_to)}) (i32.const 360)))
    (else
      (call $publish (i32.const 180) (i32.const {len(TOLD)}) {_BODY_IN_HAND} {_NO_REPLY})))"""
    return wat(_MESSAGES.format(data=data, body=body))
