"""The same module and events through Wasmtime, as a component, and through us: the same messages, writes, errors and traps."""

import functools

import pytest
from hypothesis import strategies as st

from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.errors import ModuleError
from ota.formats.capabilities import Capabilities
from ota.formats.module import Limits, ModuleDescription
from pywamr import Trap
from tests.conftest import ROOT
from tests.support.aot import aotc, compiled
from tests.support.component import Judge, component
from tests.support.sampling import check, few_and_many
from tests.support.wat import contract_module

GRANTS = {
    "logging": {},
    "messaging": {"publish": ["out/#", "readings/#", "alerts/#", "tally/#"], "subscribe": ["#"]},
    "keyvalue": {"quota_bytes": 100_000},
    "wasi": {},
}
LIMITS = Limits(memory_pages=32, messages_per_s=1_000_000, log_lines_per_s=1_000_000)
IMPORTS = """
  (import "device:module/logging@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "device:module/messaging@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32)))
  (import "device:module/keyvalue@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "device:module/keyvalue@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
  (import "device:module/keyvalue@0.1.0" "delete" (func $delete (param i32 i32 i32)))"""
# Names that actions use, each at an offset of its own: topics that may be published and may not, and keys.
NAMES = {300: "out/a", 320: "else/b", 340: "out/#", 360: "one", 380: "zwölf"}
DATA = "".join(f'(data (i32.const {at}) "{name}")' for at, name in NAMES.items())
TOPICS, KEYS = (300, 320, 340), (360, 380)


def const(at: int) -> str:
    return f"(i32.const {at}) (i32.const {len(NAMES[at].encode())})"


PAYLOAD, TOPIC = "(local.get $payload) (local.get $size)", "(local.get $topic) (local.get $topic_size)"
CONTENTS = st.sampled_from([PAYLOAD, TOPIC, const(300), const(380)])
# What publish and get answered is published in turn; a pointer never is.
ACTIONS = st.one_of(
    st.builds(lambda at, what: f"(call $publish {const(at)} {what} (i32.const 200))", st.sampled_from(TOPICS), CONTENTS),
    st.just(f"(call $publish {const(300)} (i32.const 200) (i32.const 1) (i32.const 210))"),
    st.builds(lambda key, what: f"(call $set {const(key)} {what} (i32.const 220))", st.sampled_from(KEYS), CONTENTS),
    st.builds(lambda key: f"(call $delete {const(key)} (i32.const 220))", st.sampled_from(KEYS)),
    st.builds(
        lambda key: (
            f"""(call $get {const(key)} (i32.const 240))
          (if (i32.load8_u (i32.const 240)) (then (call $publish {const(300)}
            (i32.load (i32.const 244)) (i32.load (i32.const 248)) (i32.const 210))))"""
        ),
        st.sampled_from(KEYS),
    ),
    st.integers(0, 4).map(lambda level: f"(call $log (i32.const {level}) {const(300)})"),
    st.builds(
        lambda byte, end: (
            f"""(if (i32.and (i32.gt_u (local.get $size) (i32.const 0))
          (i32.eq (i32.load8_u (local.get $payload)) (i32.const {byte}))) (then {end}))"""
        ),
        st.integers(0, 7),
        st.sampled_from(["unreachable", "(return (i32.const 16))", "(drop (i32.load (i32.const -8)))"]),
    ),
)
EVENTS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), max_size=20),
        st.binary(max_size=40) | st.integers(0, 7).map(lambda byte: bytes((byte,))),
    ),
    min_size=1,
    max_size=6,
)


def may_publish(topic: str) -> bool:
    return topic.startswith(("out/", "readings/", "alerts/", "tally/")) and "#" not in topic


def ours(code: bytes, events, *, startup: bool):
    host = ModuleHost(code, ModuleDescription("m", "1", Capabilities.parse(GRANTS, "oracle"), LIMITS), {}, lambda *_: None)
    seen = []
    try:
        calls = [lambda: host.begin(b"", {})] if startup else []
        calls += [lambda topic=topic, payload=payload: host.handle(topic, payload) for topic, payload in events]
        for call in calls:
            try:
                outcome = call()
                seen.append(("ok", list(outcome.messages), {each.key: each.value for each in outcome.writes}))
            except ModuleError as error:
                seen.append(("error", str(error)))
            except Trap:
                seen.append(("trap",))
                break
    finally:
        host.close()
    return seen


def theirs(binary: bytes, events, *, startup: bool):
    judge, seen = Judge(binary, may_publish), []
    calls = [("startup", "init", b"")] if startup else []
    for call in [*calls, *(("events", "handle", topic, payload) for topic, payload in events)]:
        seen.append(judge.call(*call))
        if seen[-1] == ("trap",):
            break
    return seen


def codes(wasm: bytes):
    """The module interpreted, and compiled where the compiler is there."""
    return [wasm] if aotc() is None else [wasm, compiled(wasm, "x86_64")]


def agree(wasm: bytes, binary: bytes, events, *, startup: bool) -> None:
    expected = theirs(binary, events, startup=startup)
    for code in codes(wasm):
        assert ours(code, events, startup=startup) == expected


@few_and_many(12, 100)
def test_generated_modules_answer_events_as_their_components_do_in_wasmtime(examples):
    def holds(actions, events) -> None:
        wasm = contract_module("\n".join(actions) + " (i32.const 0)", IMPORTS, DATA)
        agree(wasm, component(wasm), events, startup=False)

    check(examples, holds, st.lists(ACTIONS, min_size=1, max_size=6), EVENTS)


@functools.cache
def built(name: str) -> tuple[bytes, bytes]:
    wasm = (ROOT / f"build/modules/{name}.wasm").read_bytes()
    return wasm, component(wasm)


EVENTS_OF_BOARDS = EVENTS | st.lists(
    st.tuples(st.sampled_from(["sys/load", "sys/temperature", "in/x"]), st.from_regex(rb"\A-?[0-9]{1,6}(\.[0-9]{1,3})?\Z")),
    max_size=8,
)


@pytest.mark.parametrize("name", ["monitor-v1", "monitor-v2", "tally"])
@few_and_many(10, 60)
def test_the_examples_answer_events_as_their_components_do_in_wasmtime(name, examples):
    wasm, binary = built(name)
    startup = b"startup@0.1.0#init" in wasm
    check(examples, lambda events: agree(wasm, binary, events, startup=startup), EVENTS_OF_BOARDS)
