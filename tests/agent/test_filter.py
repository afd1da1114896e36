"""Filters of proxy-wasm: what they see of messages, what becomes of these, and what they can't do."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.sandbox import filter as filters
from device_agent.sandbox import http_text
from device_agent.sandbox.errors import ContractError, ModuleError
from device_agent.sandbox.proxy_abi import METRICS
from device_agent.sandbox.routes import Routes, RoutesError
from ota.formats.capabilities import FUNCTIONS
from ota.formats.reasons import Reason, Refused
from pywamr import Trap
from tests.support.filter_wat import OUT, opened, probe, words
from tests.support.wat import wat

OUTS = f"(i32.const {OUT}) (i32.const {OUT + 4})"
NOTHING = "(i32.const 0) (i32.const 0)"
ANSWER = f"proxy_send_local_response (i32.const 403) {NOTHING} {words(16, 5)} {NOTHING} (i32.const -1)"
HTTP = b"GET /door?x=1 HTTP/1.1\r\nHost: roof\r\nX-A: 1\r\nReply-To: answers/me\r\n\r\nbody"


def out(host, size: int = 4) -> int:
    return int.from_bytes(host._read(OUT, size), "little")


def test_a_message_that_passes_goes_where_its_route_says():
    host = opened(probe())
    assert host.handle("raw/door/1", b"open").messages == (("clean/door/1", b"open"),)
    assert host.handle("raw", b"").messages == (("clean", b""),)  # MQTT: # stands for nothing, too


def test_a_message_that_the_filter_holds_is_dropped_and_one_it_continues_is_not():
    assert opened(probe(action="(i32.const 1)")).handle("raw/x", b"1").messages == ()
    host = opened(probe("proxy_continue_stream (i32.const 0)", action="(i32.const 1)"))
    assert host.handle("raw/x", b"1").messages == (("clean/x", b"\0"),)


def test_the_body_decides_where_the_headers_did_not():
    more = '(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.eqz (i32.eq (local.get 1) (i32.const 3))))'
    host = opened(probe(action="(i32.const 1)", more=more))
    assert host.handle("raw/x", b"yes").messages == (("clean/x", b"yes"),)
    assert host.handle("raw/x", b"no").messages == ()
    assert host.handle("raw/x", b"").messages == ()  # the headers were the end


def test_another_path_is_another_topic():
    calls = f"proxy_replace_header_map_value (i32.const 0) {words(32, 5)} {words(48, 10)}"
    assert opened(probe(calls)).handle("raw/x", b"1").messages == (("other/y", b"\0"),)


def test_a_message_of_http_passes_as_http_with_its_changed_headers():
    calls = f"""proxy_replace_header_map_value (i32.const 0) {words(0, 3)} {words(16, 5)}
    proxy_add_header_map_value (i32.const 0) {words(0, 3)} {words(16, 2)}"""
    ((topic, payload),) = opened(probe(calls)).handle("raw/x", HTTP).messages
    head = b"GET /door?x=1 HTTP/1.1\r\nhost: roof\r\nx-a: value\r\nreply-to: answers/me\r\nx-a: va\r\n"
    assert (topic, payload) == ("clean/x", head + b"content-length: 2\r\n\r\n\0\0")


def test_an_answer_goes_to_who_asked_and_the_message_no_further():
    host = opened(probe(ANSWER), {"routes": "raw/#=clean/#", "answers": "raw/x/#=answers/x/#"})
    answer = b"HTTP/1.1 403 \r\ncontent-length: 5\r\n\r\nvalue"
    assert host.handle("raw/other", HTTP).messages == (("answers/me", answer),)
    assert host.handle("raw/x/1", b"plain").messages == (("answers/x/1", answer),)
    assert host.handle("raw/other", b"plain").messages == ()


def test_one_answer_is_all_a_message_gets():
    host = opened(probe(f"{ANSWER}\n{ANSWER}"), {"answers": "raw/#=answers/#"})
    ((topic, payload),) = host.handle("raw/x", b"1").messages
    assert topic == "answers/x"
    assert payload.startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    ("call", "result", "value"),
    [
        (f"proxy_get_header_map_value (i32.const 0) {words(32, 5)} {OUTS}", 0, b"/raw/x"),
        (f"proxy_get_header_map_value (i32.const 0) {words(0, 3)} {OUTS}", 1, None),
        (f"proxy_get_header_map_value (i32.const 2) {words(32, 5)} {OUTS}", 1, None),  # of an answer there is none
        (f"proxy_get_header_map_value (i32.const 0) {words(0, 50_000)} {OUTS}", 2, None),
        (f"proxy_get_buffer_bytes (i32.const 0) (i32.const 1) (i32.const 2) {OUTS}", 0, b"bc"),
        (f"proxy_get_buffer_bytes (i32.const 0) (i32.const 9) (i32.const -1) {OUTS}", 0, b""),
        (f"proxy_get_buffer_bytes (i32.const 7) (i32.const 0) (i32.const 99) {OUTS}", 0, b"the plugin's"),
        (f"proxy_get_buffer_bytes (i32.const 6) (i32.const 0) (i32.const 99) {OUTS}", 0, b""),
        (f"proxy_get_buffer_bytes (i32.const 4) (i32.const 0) (i32.const 99) {OUTS}", 1, None),
        (f"proxy_get_property {words(64, 12)} {OUTS}", 0, b"/raw/x"),
        (f"proxy_get_property {words(0, 3)} {OUTS}", 1, None),
        (f"proxy_remove_header_map_value (i32.const 1) {words(0, 3)}", 1, None),
        (f"proxy_set_header_map_pairs (i32.const 0) {words(16, 5)}", 2, None),  # no header map
        (f"proxy_add_header_map_value (i32.const 0) {words(0, 3)} {words(0, 17_000)}", 2, None),
        (f"proxy_log (i32.const 9) {words(0, 3)}", 2, None),
        (f"proxy_log (i32.const 2) {words(0, 3)}", 0, None),
        ("proxy_continue_stream (i32.const 1)", 12, None),
        ("proxy_set_effective_context (i32.const 77)", 2, None),
        (f"proxy_http_call {' '.join([NOTHING] * 4)} (i32.const 1) (i32.const {OUT})", 12, None),
        ("proxy_record_metric (i32.const 0) (i64.const 1)", 1, None),
        ("proxy_get_metric (i32.const -1) (i32.const 4096)", 1, None),
    ],
)
def test_a_host_function_answers(call, result, value):
    host = opened(probe(call), {"routes": "raw/#=clean/#", "configuration": "the plugin's"})
    assert host.handle("raw/x", b"abcd").messages == (("clean/x", bytes((result,))),)
    if value is not None:
        pointer, size = struct.unpack("<II", host._read(OUT, 8))
        assert host._read(pointer, size) == value


@pytest.mark.parametrize("wanted", ["", "guard"])
def test_the_root_context_is_the_one_that_the_configuration_names_or_the_nameless_one(wanted):
    """SDKs for C++ and AssemblyScript look their contexts up by it; what is registered with no name is found with no name."""
    config = {"routes": "raw/#=clean/#"} | ({"root_id": wanted} if wanted else {})
    host = opened(probe(f"proxy_get_property {words(96, 14)} {OUTS}"), config)
    assert host.handle("raw/x", b"").messages == (("clean/x", b"\0"),)
    pointer, size = struct.unpack("<II", host._read(OUT, 8))
    assert host._read(pointer, size) == wanted.encode()


def test_shared_data_are_keys_with_versions():
    write = f"proxy_set_shared_data {words(0, 3)} {words(16, 5)}"
    read = f"proxy_get_shared_data {words(0, 3)} {OUTS} (i32.const {OUT + 8})"
    calls = f"{read}\n{write} (i32.const 5)\n{write} (i32.const 0)\n{write} (i32.const 2)\n{write} (i32.const 2)\n{read}"
    host = opened(probe(calls))
    outcome = host.handle("raw/x", b"")
    assert outcome.messages == (("clean/x", bytes((1, 8, 0, 0, 8, 0))),)
    assert [(each.key, each.value) for each in outcome.writes] == [("x-a", b"value")]
    assert struct.unpack("<I", host._read(OUT + 8, 4)) == (3,)
    over = f"proxy_set_shared_data {words(0, 3)} {words(0, 300)} (i32.const 0)"
    assert opened(probe(over)).handle("raw/x", b"").messages == (("clean/x", b"\x0a"),)


def test_shared_data_without_the_capability_are_not_there():
    call = f"proxy_set_shared_data {words(0, 3)} {words(16, 5)} (i32.const 0)"
    wasm = probe(call)
    host = opened(wasm)
    host._capabilities.items.pop("keyvalue")
    assert host.handle("raw/x", b"").messages == (("clean/x", b"\x0c"),)


def test_metrics_count_and_are_bounded():
    define = f"proxy_define_metric (i32.const 1) {words(0, 3)} (i32.const {OUT})"
    add = "proxy_increment_metric (i32.const 0)"
    calls = f"{define}\n{define}\n{add} (i64.const 5)\n{add} (i64.const -2)"
    host = opened(probe(f"{calls}\nproxy_get_metric (i32.const 0) (i32.const {OUT})"))
    assert host.handle("raw/x", b"").messages == (("clean/x", bytes(5)),)
    assert out(host, 8) == 3
    host = opened(probe(define))
    for number in range(METRICS):
        host._metrics.define(0, str(number).encode())
    assert host.handle("raw/x", b"").messages[0][1][0] == 10


def test_a_tick_comes_when_its_period_is_over():
    more = """(func (export "proxy_on_tick") (param i32) (i32.store8 (i32.const 4096) (i32.const 7)))"""
    host = opened(probe("proxy_set_tick_period_milliseconds (i32.const 1)", more=more))
    host.tick(0)
    assert out(host, 1) == 0  # it has asked for none
    host.handle("raw/x", b"")
    host._ticked_ns -= 2_000_000
    host.tick(0)
    assert out(host, 1) == 7


def test_every_function_that_toolchains_import_is_there():
    wasm = probe()
    host = opened(wasm)
    assert set(host._filter_functions()) == set(FUNCTIONS["filter"])
    assert all(name.startswith("proxy_") for name in FUNCTIONS["filter"])


# -- what is refused


def test_a_filter_that_does_not_take_its_configuration_does_not_start():
    with pytest.raises(ModuleError, match="does not take its configuration"):
        opened(probe(configure="(i32.const 0)"))


def test_a_message_that_passes_and_has_nowhere_to_go_is_refused_by_name():
    with pytest.raises(ModuleError, match="no route says where messages on raw/x go"):
        opened(probe(), {"routes": "in/#=clean/#"}).handle("raw/x", b"1")


def test_a_path_to_where_the_manifest_does_not_let_it_publish_is_refused():
    host = opened(probe(), {"routes": "raw/#=secret/#"})
    with pytest.raises(ModuleError, match="its manifest does not let it publish there"):
        host.handle("raw/x", b"1")
    assert host._take().messages == ()


def test_a_header_that_would_split_a_request_is_refused():
    calls = f"proxy_add_header_map_value (i32.const 0) {words(0, 3)} {words(60, 20)}"  # zeros
    with pytest.raises(ModuleError, match="the header b'x-a' is none of HTTP"):
        opened(probe(calls)).handle("raw/x", HTTP)


def test_a_pointer_outside_the_memory_ends_the_filter():
    with pytest.raises((ContractError, Trap)):
        opened(probe("proxy_get_log_level (i32.const -4)")).handle("raw/x", b"1")


def test_a_filter_of_another_version_of_the_abi_is_refused_by_name():
    wasm = probe().replace(b"proxy_abi_version_0_2_1", b"proxy_abi_version_0_1_0")
    with pytest.raises(Refused, match="proxy_abi_version_0_1_0") as refusal:
        opened(wasm)
    assert refusal.value.reason is Reason.EXPORT_MISSING


def test_a_filter_without_the_capability_is_refused():
    with pytest.raises(Refused) as refusal:
        filters.open_host(probe(), filters_description(), {}, lambda *_: None)
    assert refusal.value.reason is Reason.IMPORT_UNDECLARED


def filters_description():
    from ota.formats.capabilities import Capabilities
    from ota.formats.module import ModuleDescription

    return ModuleDescription("f", "1", Capabilities.parse({"messaging": {"publish": ["clean/#"]}}, "test"))


def test_a_module_that_is_no_filter_can_not_be_one():
    with pytest.raises(Refused, match="exports no version") as refusal:
        opened(wat('(module (memory (export "memory") 1))'))
    assert refusal.value.reason is Reason.EXPORT_MISSING


@pytest.mark.parametrize(
    "text", ["raw/#", "raw/#=clean", "raw/x=clean/#", "raw/#=raw/#", "#=clean/#", "raw/+/x=a", ",".join(["a=b"] * 33)]
)
def test_routes_that_can_not_be_read_are_refused(text):
    with pytest.raises(RoutesError):
        Routes.parse(text, "")


# -- headers


HEADERS = st.lists(st.tuples(st.binary(min_size=1, max_size=20).map(bytes.lower), st.binary(max_size=40)), max_size=20)


@given(HEADERS)
def test_header_maps_come_back_as_they_were(headers):
    assert http_text.unpacked(http_text.packed(headers)) == headers


@given(HEADERS, st.data())
def test_header_maps_that_are_cut_are_refused_or_shorter(headers, data):
    whole = http_text.packed(headers)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    try:
        found = http_text.unpacked(cut)
    except http_text.HeadersError:
        return
    assert len(found) in (0, len(headers))


@given(st.binary(max_size=200))
def test_any_payload_is_a_request_or_refused_as_one(payload):
    for each in (payload, b"GET / HTTP/1.1\r\n" + payload, HTTP[:60] + payload):
        try:
            request = http_text.request_of("t", each, "f")
        except http_text.HeadersError:
            continue
        assert len(request.headers) <= http_text.HEADERS
        if not request.is_http:
            assert request.body == each
            continue
        again = http_text.request_of("t", http_text.request_text(request), "f")
        assert (again.body, again.headers[:4]) == (request.body, request.headers[:4])
