"""The contract from the host's side: what modules may do, and what happens to those that break it."""

import json

import pytest

from device_agent.channel.frames import KeyWrite
from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.errors import ContractError, ModuleError
from ota.formats.capabilities import Capabilities
from ota.formats.module import Limits, ModuleDescription
from ota.formats.reasons import Reason, Refused
from pywamr import Trap
from tests.support.wat import CONTRACT, ERROR, OK, contract_module, wat

PUBLISH = '(import "device:module/messaging@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32)))'
LOG = '(import "device:module/logging@0.1.0" "log" (func $log (param i32 i32 i32)))'
GET = '(import "device:module/keyvalue@0.1.0" "get" (func $get (param i32 i32 i32)))'
SET = '(import "device:module/keyvalue@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))'
EVERYTHING = {
    "logging": {},
    "messaging": {"publish": ["out/#"], "subscribe": ["#"]},
    "keyvalue": {"quota_bytes": 64},
    "clock": {},
    "config": {},
}


class Logged(list):
    def __call__(self, level, message):
        self.append((level, message))


def host(wasm, capabilities=None, log=None, config=None, **limits):
    declared = Capabilities.parse(EVERYTHING if capabilities is None else capabilities, "test")
    opened = ModuleHost(
        wasm, ModuleDescription("m", "1", declared, Limits(**limits)), config or {}, Logged() if log is None else log
    )
    opened.begin(b"", {})
    return opened


def test_a_real_module_turns_readings_into_messages(modules):
    log = Logged()
    monitor = host((modules / "monitor-v1.wasm").read_bytes(), {"logging": {}, "messaging": {"publish": ["readings/#"]}}, log)
    outcome = monitor.handle("sys/loadavg", b"0.50 0.40 0.30 1/100 999\n")
    ((topic, payload),) = outcome.messages
    assert topic == "readings/load"
    assert json.loads(payload) == {"reading": "load", "value": 0.5, "mean": 0.5, "count": 1, "event": 1, "version": 1}
    assert log == [("info", "monitor version 1, starting at event 0")]
    with pytest.raises(ModuleError, match="not a reading that this module knows"):
        monitor.handle("sys/other", b"")


def test_version_2_goes_on_with_the_state_of_version_1(modules):
    capabilities = {"logging": {}, "messaging": {"publish": ["#"]}}
    first = host((modules / "monitor-v1.wasm").read_bytes(), capabilities)
    for _ in range(7):
        first.handle("sys/thermal", b"50000\n")
    second = host((modules / "monitor-v2.wasm").read_bytes(), capabilities)
    second.begin(first.save(), {})
    ((topic, payload),) = second.handle("sys/thermal", b"50000").messages
    assert json.loads(payload) | {"count": 8, "event": 8, "version": 2, "mean": 50.0} == json.loads(payload)
    alert, reading = second.handle("sys/thermal", b"90000").messages
    assert (alert[0], reading[0]) == ("alerts/unusual", "readings/temperature")


def test_a_state_that_is_not_the_modules_is_refused(modules):
    monitor = host((modules / "monitor-v1.wasm").read_bytes(), {"logging": {}, "messaging": {"publish": ["#"]}})
    with pytest.raises(ModuleError, match="not monitor's"):
        monitor.begin(bytes(200), {})


def test_a_zig_module_keeps_its_counts_in_the_store(modules):
    capabilities = {"messaging": {"publish": ["tally/#"]}, "keyvalue": {"quota_bytes": 64}}
    tally = host((modules / "tally.wasm").read_bytes(), capabilities)
    tally.begin(b"", {"door": (41).to_bytes(4, "little")})
    outcome = tally.handle("door", b"")
    assert outcome.messages == (("tally/count", b"42"),)
    assert outcome.writes == (KeyWrite("door", (42).to_bytes(4, "little")),)
    assert tally.handle("door", b"").messages == (("tally/count", b"43"),)


def test_an_undeclared_import_is_refused_before_any_guest_code_runs():
    log = Logged()
    wasm = contract_module(imports=LOG, more="(func $s (call $log (i32.const 2) (i32.const 32) (i32.const 2))) (start $s)")
    with pytest.raises(Refused) as caught:
        host(wasm, {}, log)
    assert caught.value.reason is Reason.IMPORT_UNDECLARED
    assert "device:module/logging@0.1.0.log" in str(caught.value)
    assert log == []


def test_a_module_without_events_is_refused():
    with pytest.raises(Refused) as caught:
        host(contract_module().replace(b"events@0.1.0#handle", b"events@0.1.0#hundle"))
    assert caught.value.reason is Reason.EXPORT_MISSING


def test_an_export_of_another_type_is_refused():
    with pytest.raises(ContractError, match="the contract says"):
        host(contract_module(more='(func (export "device:module/health@0.1.0#check") (param i64) (result i32) i32.const 0)'))


def publish(topic: str, size: int = 3) -> str:
    return f"(call $publish (i32.const 100) (i32.const {len(topic)}) (i32.const 200) (i32.const {size}) (i32.const 80))"


def publishing(topic, size=3, after=OK):
    """A module that publishes, and logs the two bytes of the answer."""
    body = f"{publish(topic, size)} (call $log (i32.const 2) (i32.const 80) (i32.const 2)) {after}"
    return contract_module(body, PUBLISH + LOG, f'(data (i32.const 100) "{topic}") (data (i32.const 200) "abc")')


@pytest.mark.parametrize(
    ("topic", "size", "answer"),
    [("out/a", 3, "\0\0"), ("elsewhere", 3, "\1\0"), ("out/#", 3, "\1\0"), ("", 3, "\1\0"), ("out/a", 65_336 + 201, "\1\1")],
)
def test_what_may_be_published_is_decided_by_the_manifest(topic, size, answer):
    log = Logged()
    if size > 60_000:
        wasm = publishing(topic, size).replace(b"\x05\x03\x01\x00\x01", b"\x05\x03\x01\x00\x02")
    else:
        wasm = publishing(topic, size)
    outcome = host(wasm, log=log, memory_pages=4).handle("t", b"")
    assert log == [("info", answer)]
    assert outcome.messages == ((topic, b"abc"),) * (answer == "\0\0")


def test_an_event_that_is_refused_sends_nothing():
    module = host(publishing("out/a", after=ERROR))
    with pytest.raises(ModuleError, match=r"^no$"):
        module.handle("t", b"")


def test_an_event_that_traps_sends_nothing_and_the_next_is_clean():
    module = host(publishing("out/a", after="(if (local.get $size) (then unreachable)) (i32.const 0)"))
    with pytest.raises(Trap):
        module.handle("t", b"x")
    assert module.handle("t", b"").messages == (("out/a", b"abc"),)


def test_a_flood_of_messages_is_bounded():
    again = "(br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 5000)))"
    body = f"(local $n i32) (loop {publish('out/a')} {again}) {OK}"
    wasm = contract_module(body, PUBLISH, '(data (i32.const 100) "out/a") (data (i32.const 200) "abc")')
    assert len(host(wasm).handle("t", b"").messages) == 256


@pytest.mark.parametrize(
    "arguments",
    [
        "(i32.const 2) (i32.const -1) (i32.const 4)",
        "(i32.const 2) (i32.const 65530) (i32.const 100)",
        "(i32.const 2) (i32.const 0) (i32.const -1)",
        "(i32.const 9) (i32.const 32) (i32.const 2)",
        "(i32.const 2) (i32.const 100) (i32.const 2)",
    ],
)
def test_wrong_pointers_levels_and_text_end_the_call(arguments):
    module = host(contract_module(f"(call $log {arguments}) {OK}", LOG, '(data (i32.const 100) "\\ff\\fe")'))
    with pytest.raises(ContractError):
        module.handle("t", b"")


@pytest.mark.parametrize("result", ["(i32.const -4)", "(i32.const 65536)", "(i32.const 48)"])
def test_a_result_outside_the_contract_ends_the_call(result):
    module = host(contract_module(result, data='(data (i32.const 48) "\\07")'))
    with pytest.raises(ContractError):
        module.handle("t", b"")


def test_an_allocator_that_lies_is_found_out():
    wasm = contract_module().replace(b"cabi_realloc", b"real_realloc")
    lying = contract_module(more='(func (export "cabi_reallox") (param i32 i32 i32 i32) (result i32) i32.const -16)')
    assert wasm != lying
    swapped = lying.replace(b"cabi_realloc", b"xabi_realloc").replace(b"cabi_reallox", b"cabi_realloc")
    with pytest.raises(ContractError, match="outside the memory"):
        host(swapped).handle("topic", b"payload")


def test_the_quota_of_keys_is_held():
    body = f"""(call $set (i32.const 100) (i32.const 1) (i32.const 200) (local.get $size) (i32.const 80))
      (call $log (i32.const 2) (i32.const 80) (i32.const 1)) {OK}"""
    log = Logged()
    module = host(contract_module(body, SET + LOG, '(data (i32.const 100) "k")'), log=log)
    assert module.handle("t", bytes(63)).writes == (KeyWrite("k", bytes(63)),)
    assert module.handle("t", bytes(64)).writes == ()
    assert [message for _, message in log] == ["\0", "\1"]


def test_a_module_reads_its_own_writes_and_what_was_kept():
    body = f"""(call $get (i32.const 100) (i32.const 1) (i32.const 80))
      (call $log (i32.const 2) (i32.load (i32.const 84)) (i32.load (i32.const 88)))
      (call $set (i32.const 100) (i32.const 1) (local.get $payload) (local.get $size) (i32.const 96)) {OK}"""
    log = Logged()
    module = host(contract_module(body, GET + SET + LOG, '(data (i32.const 100) "k")'), log=log)
    module.begin(b"", {"k": b"kept"})
    module.handle("t", b"new")
    module.handle("t", b"x")
    assert [message for _, message in log] == ["kept", "new"]


def test_memory_is_limited_by_the_manifest():
    grow = "(if (i32.eq (memory.grow (i32.const 3)) (i32.const -1)) (then (return (i32.const 16)))) (i32.const 0)"
    with pytest.raises(ModuleError):
        host(contract_module(grow), memory_pages=3).handle("t", b"")
    assert host(contract_module(grow), memory_pages=4).handle("t", b"").messages == ()


def test_a_capability_in_a_start_function_is_refused():
    wasm = contract_module(imports=LOG, more="(func $s (call $log (i32.const 2) (i32.const 32) (i32.const 2))) (start $s)")
    with pytest.raises(ContractError, match="start function"):
        host(wasm)


DELETE = '(import "device:module/keyvalue@0.1.0" "delete" (func $delete (param i32 i32 i32)))'


def test_keys_that_are_deleted_have_limits_too():
    """A long one, or very many, once ended the worker without a reason."""
    one = host(
        contract_module("(call $delete (i32.const 0) (i32.const 60000) (i32.const 80)) (i32.const 80)", DELETE), {"keyvalue": {}}
    )
    with pytest.raises(ModuleError, match="a key has 1 to 256 bytes"):
        one.handle("t", b"")
    many = """(local $n i32)
      (loop $next
        (i32.store (i32.const 200) (i32.add (i32.const 0x20202020) (i32.or (i32.and (local.get $n) (i32.const 63))
          (i32.shl (i32.shr_u (local.get $n) (i32.const 6)) (i32.const 8)))))
        (call $delete (i32.const 200) (i32.const 4) (i32.const 80))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $next (i32.and (i32.lt_u (local.get $n) (i32.const 5000)) (i32.eqz (i32.load8_u (i32.const 80))))))
      (i32.const 80)"""
    with pytest.raises(ModuleError, match="an event changes at most 1024 keys"):
        host(contract_module(many, DELETE), {"keyvalue": {}}).handle("t", b"")


@pytest.mark.parametrize(
    ("exports", "runs"),
    [
        (("_initialize",), 1),
        (("__wasm_call_ctors",), 1),
        (("_initialize", "__wasm_call_ctors"), 1),  # the first calls the second, or does without
        ((), 0),
    ],
)
def test_a_module_begins_once_before_anything_else(exports, runs):
    begin = "(global.set $runs (i32.add (global.get $runs) (i32.const 1)))"
    functions = "".join(f'(func (export "{name}") {begin})' for name in exports)
    body = "(if (result i32) (i32.eq (global.get $runs) (i32.const COUNT)) (then (i32.const 0)) (else (i32.const 16)))"
    module = host(contract_module(body.replace("COUNT", str(runs)), more=f"(global $runs (mut i32) (i32.const 0)) {functions}"))
    for _ in range(2):
        assert not module.handle("t", b"").messages


@pytest.mark.parametrize("name", ["_initialize", "__wasm_call_ctors"])
def test_a_beginning_of_another_type_is_refused(name):
    with pytest.raises(ContractError, match=f"export {name} has type"):
        host(contract_module(more=f'(func (export "{name}") (param i32))'))


def test_what_is_exported_as_memory_is_one():
    for other in ('(func (export "memory"))', '(global (export "memory") i32 (i32.const 0))'):
        text = CONTRACT.replace('(memory (export "memory") 1)', f"(memory 1) {other}")
        with pytest.raises(ContractError, match="export memory is not a memory"):
            host(wat(text.format(body=OK, imports="", data="", more="")))


def test_a_function_that_cleans_up_has_the_type_that_it_is_called_by():
    text = CONTRACT.replace('#handle") (param i32) (global.set', '#handle") (param i64) (global.set')
    with pytest.raises(ContractError, match="#handle has type"):
        host(wat(text.format(body=OK, imports="", data="", more="")))


def test_what_is_sent_while_an_event_is_handed_over_is_sent():
    text = CONTRACT.replace(
        "(local $at i32)",
        """(local $at i32)
        (call $publish (i32.const 100) (i32.const 5) (i32.const 200) (i32.const 1) (i32.const 80))""",
    )
    module = host(wat(text.format(body=OK, imports=PUBLISH, data='(data (i32.const 100) "out/x")', more="")))
    assert module.handle("t", b"x").messages == (("out/x", b"\0"),) * 2  # for the topic and for the payload


def test_fuel_is_for_all_that_an_event_does():
    turns = "(local.set $n (i32.const {})) (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
    text = CONTRACT.replace("(local $at i32)", f"(local $at i32) (local $n i32) {turns.format(400)}")
    wasm = wat(text.format(body=f"(local $n i32) {turns.format(400)} {OK}", imports="", data="", more=""))
    module = host(wasm, fuel=1000)
    with pytest.raises(Trap, match="instruction limit exceeded"):
        module.handle("t", b"x")  # three times 400
    module = host(wasm, fuel=1300)
    for _ in range(3):
        module.handle("t", b"x")


SAYS_ITS_CONFIGURATION = """
  (func (export "device:module/startup@0.1.0#init") (param $at i32) (param $size i32) (result i32)
    (call $publish (i32.const 100) (i32.const 3) (local.get $at) (local.get $size) (i32.const 80)) (i32.const 0))"""


@pytest.mark.parametrize(
    ("text", "config", "given"),
    [
        (b"", {}, b""),
        (b"", {"b": "2", "a": "1"}, b"a=1\nb=2"),
        (b"", {"a": "1\nadmin=1", "b": "\n"}, b"a=1\n admin=1\nb=\n "),
        (b"unit=1min", {}, b"unit=1min"),
        (b"unit=1min", {"unit": "1h"}, b"unit=1min\nunit=1h"),
    ],
    ids=["none", "settings", "line breaks", "the manifest's", "both"],
)
def test_a_module_is_initialised_with_what_its_manifest_says_and_with_one_line_for_each_setting(text, config, given):
    capabilities = Capabilities.parse({"messaging": {"publish": ["out"]}}, "test")
    wasm = contract_module(OK, PUBLISH, '(data (i32.const 100) "out")', SAYS_ITS_CONFIGURATION)
    opened = ModuleHost(wasm, ModuleDescription("m", "1", capabilities, config=text), config, Logged())
    assert opened.begin(b"", {}).messages == (("out", given),)
