"""What senders of messages, and filters, try: to get past the filter, out of the grants, or at more than the limits."""

import inspect
import struct
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.channel.frames import PAYLOAD_LIMIT_BYTES
from device_agent.sandbox import http_text
from device_agent.sandbox.errors import ContractError, ModuleError
from device_agent.sandbox.http_text import HEADERS, HEADERS_BYTES, HeadersError
from device_agent.sandbox.proxy_abi import METRIC_NAME_BYTES, PROPERTY_PATH_BYTES
from device_agent.sandbox.routes import Routes, RoutesError
from pywamr import Trap
from tests.support.filter_wat import OUT, opened, probe, words

NOTHING = "(i32.const 0) (i32.const 0)"
ANSWER = f"proxy_send_local_response (i32.const 403) {NOTHING} {words(16, 5)} {NOTHING} (i32.const -1)"
OUTS = f"(i32.const {OUT}) (i32.const {OUT + 4})"
HOLD = "(i32.const 1)"


def on_body(answer: str, calls: str = "") -> str:
    return f'(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) {calls} {answer})'


def request(*lines: bytes, start: bytes = b"GET / HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join((start, *lines, b"", b"")) + body


# -- past the filter


def test_a_body_that_is_held_does_not_go_out_because_its_headers_were_let_go():
    go_on = "proxy_continue_stream (i32.const 0)"
    assert opened(probe(go_on, HOLD, more=on_body(HOLD))).handle("raw/x", b"1").messages == ()
    assert opened(probe(more=on_body(HOLD))).handle("raw/x", b"1").messages == ()
    assert opened(probe(more=on_body("(i32.const 3)"))).handle("raw/x", b"1").messages == ()
    assert opened(probe(go_on, HOLD, more=on_body("(i32.const 0)"))).handle("raw/x", b"1").messages == (("clean/x", b"\0"),)


def test_a_message_that_was_let_go_once_does_not_let_the_next_one_go():
    once = """(global $n (mut i32) (i32.const 0))
      (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
        (if (i32.eqz (global.get $n)) (then (drop (call $proxy_continue_stream (i32.const 0)))))
        (global.set $n (i32.const 1)) (i32.const 1))"""
    host = opened(probe("proxy_continue_stream (i32.const 0)", HOLD, more=once))
    assert len(host.handle("raw/x", b"1").messages) == 1
    assert host.handle("raw/x", b"1").messages == ()


def test_what_a_filter_does_after_its_decision_changes_nothing():
    late = f"""(func (export "proxy_on_log") (param i32)
      (drop (call $proxy_send_local_response (i32.const 200) {NOTHING} {words(16, 5)} {NOTHING} (i32.const -1)))
      (drop (call $put (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 16) (i32.const 5)))
      (drop (call $proxy_continue_stream (i32.const 0))))"""
    calls = f"proxy_send_local_response (i32.const 99) {NOTHING} {words(16, 5)} {NOTHING} (i32.const -1)"
    calls += "\nproxy_continue_stream (i32.const 3)"
    host = opened(probe(calls, more=late), {"routes": "raw/#=clean/#", "answers": "raw/#=answers/#"})
    assert host.handle("raw/x", b"1").messages == (("clean/x", b"\2\x0c"),)
    host = opened(probe(calls, HOLD, more=late), {"routes": "raw/#=clean/#", "answers": "raw/#=answers/#"})
    assert host.handle("raw/x", b"1").messages == ()


def test_a_message_that_a_filter_closes_is_neither_passed_nor_answered():
    host = opened(probe(f"{ANSWER}\nproxy_close_stream (i32.const 0)"), {"routes": "raw/#=clean/#", "answers": "raw/#=answers/#"})
    assert host.handle("raw/x", b"1").messages == ()


def test_a_reply_to_that_names_a_place_for_passed_messages_is_refused_unseen():
    lines: list = []
    seen = f"proxy_log (i32.const 2) {words(0, 3)}"
    host = opened(probe(f"{seen}\n{ANSWER}"), {"routes": "raw/#=clean/#, in/door=out/door"}, lines)
    for place in (b"clean/x", b"clean", b"clean/#", b"out/door"):
        with pytest.raises(ModuleError, match="unseen by the filter: its reply-to names a topic that is for messages that passed"):
            host.handle("raw/x", request(b"Reply-To: " + place))
    assert lines == []
    assert host.handle("raw/x", request(b"Reply-To: answers/me")).messages[0][0] == "answers/me"


def test_a_reply_to_that_a_filter_sets_to_a_place_for_passed_messages_is_refused():
    name, value = b"reply-to", b"clean/x"
    text = f'(data (i32.const 100) "{name.decode()}") (data (i32.const 120) "{value.decode()}")'
    calls = f"proxy_add_header_map_value (i32.const 0) {words(100, len(name))} {words(120, len(value))}\n{ANSWER}"
    with pytest.raises(ModuleError, match="its reply-to names a topic that is for messages that passed"):
        opened(probe(calls, more=text)).handle("raw/x", request())


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (b"secret/x", "its manifest does not let it publish there"),
        (b"answers/+", "its manifest does not let it publish there"),
        (b"raw/x", "that the filter itself subscribes to"),
    ],
)
def test_a_reply_to_outside_the_grants_is_refused(place, why):
    host = opened(probe(ANSWER))
    with pytest.raises(ModuleError, match=why):
        host.handle("raw/x", request(b"Reply-To: " + place))
    assert host._take().messages == ()


@pytest.mark.parametrize("text", ["raw/#=raw/x/#", "raw/x/#=raw/#", "a=a"])
def test_a_route_into_itself_is_refused(text):
    with pytest.raises(RoutesError, match="for ever"):
        Routes.parse(text, "")


# -- requests that two readers would not read alike


@pytest.mark.parametrize(
    "payload",
    [
        request(start=b"GET / HTTP/1.0"),
        request(start=b"GET / HTTP/2"),
        request(start=b"get / HTTP/1.1"),
        request(start=b"GET  / HTTP/1.1"),
        request(start=b"GET\t/ HTTP/1.1"),
        request(start=b"GET /a b HTTP/1.1"),
        request(start=b"GET / HTTP/1.1 "),
        request(start=b"GET / HTTP/1.1 x"),
        request(start=b"GET / http/1.1"),
        request(start=b" GET / HTTP/1.1"),
        request(start=b"\r\nGET / HTTP/1.1"),
        request(start=b"\0GET / HTTP/1.1"),
        request(start=b"GET\0/ HTTP/1.1"),
        request(start=b"GET /\0 HTTP/1.1"),
        request(start=b"GET HTTP/1.1"),
        request(start=b"GET * HTTP/1.1"),
        request(start=b"GET http://roof/ HTTP/1.1"),
        request(start="GET /\u00fc HTTP/1.1".encode()),
        request(start=b"GET /\xff HTTP/1.1"),
        request(start=b"GET /" + b"a" * 1024 + b" HTTP/1.1"),
        request(start=b"GET / HTTP/1.1\r"),
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        request(b"no colon"),
        request(b": no name"),
        request(b":path: /other"),
        request(b"A : b"),
        request(b"A: b", b" folded"),
        request(b"A: b", b"\tfolded"),
        request(b" A: b"),
        request(b"A\0: b"),
        request(b"A: b\0"),
        request(b"A: b\rC: d"),
        request(b"A: b\nC: d"),
        request(b"A: b\x7f"),
        request(b"A: \xff"),
        request(b"\xc3\xbc: b"),
        request(b"Content-Length: 1", b"Content-Length: 1", body=b"x"),
        request(b"Content-Length: 1, 1", body=b"x"),
        request(b"Content-Length: 0", body=b"x"),
        request(b"Content-Length: 2", body=b"x"),
        request(b"Content-Length: +1", body=b"x"),
        request(b"Content-Length:", body=b"x"),
        request(b"Content-Length: " + b"9" * 5000, body=b"x"),
        request(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r"),
        request(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        request(b"transfer-encoding: identity", body=b"x"),
        request(b"Host: a", b"Host: b"),
        request(b"Reply-To: answers/a", b"Reply-To: clean/x"),
        request(*[b"a: b"] * (HEADERS - 3)),
        request(b"a: " + b"b" * HEADERS_BYTES),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused_unseen(payload):
    lines: list = []
    host = opened(probe(f"proxy_log (i32.const 2) {words(0, 3)}"), log=lines)
    with pytest.raises(ModuleError, match="a message on raw/x is refused, unseen by the filter"):
        host.handle("raw/x", payload)
    assert lines == []
    assert len(host.handle("raw/x", b"open").messages) == 1  # and the filter goes on


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"open",
        b"HTTP/1.1 403 \r\ncontent-length: 0\r\n\r\n",
        b'{"request": "GET / HTTP/1.1"}',
        b'10.0.0.1 - - [10/Oct/2026:13:55:36 +0000] "GET / HTTP/1.0" 200 2326',
        b"the board got GET / HTTP/1.1 from a browser",
        b"\xff\xfe\0\0",
    ],
)
def test_other_messages_pass_as_they_are(payload):
    assert opened(probe()).handle("raw/x", payload).messages == (("clean/x", payload),)


def test_a_request_with_the_length_of_its_body_passes():
    payload = request(b"Host: roof", b"Content-Length: 4", body=b"body")
    ((_, passed),) = opened(probe()).handle("raw/x", payload).messages
    assert passed == b"GET / HTTP/1.1\r\nhost: roof\r\ncontent-length: 4\r\n\r\nbody"


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nx: y", b"a\rx: y", b"a\0", b"\xff"])
@pytest.mark.parametrize("name", [b"x", b"host", b":authority", b":path", b":method"])
def test_a_header_that_a_filter_sets_can_not_inject_another(name, value):
    held = http_text.request_of("t", request(b"Host: roof"), "f")
    held.headers = [each for each in held.headers if each[0] != name] + [(name, value)]
    if name == b"host":  # is written from :authority
        assert value not in http_text.request_text(held)
        return
    with pytest.raises(HeadersError):
        http_text.request_text(held)
    if not name.startswith(b":"):
        with pytest.raises(HeadersError):
            http_text.answer_text(200, [(name, value)], b"")


def test_a_filter_can_not_say_where_its_body_ends():
    """The length is that of the body; a second one, or an encoding, would hide a request in it."""
    framing = [(b"transfer-encoding", b"chunked"), (b"content-length", b"0")]
    held = http_text.request_of("t", request(body=b"GET /admin HTTP/1.1\r\n\r\n"), "f")
    held.headers += framing
    written = http_text.request_text(held)
    assert written.count(b"content-length") == 1
    assert b"transfer-encoding" not in written
    assert http_text.request_of("t", written, "f").body == held.body
    assert http_text.answer_text(200, framing, b"body") == b"HTTP/1.1 200 \r\ncontent-length: 4\r\n\r\nbody"


def test_a_path_that_is_no_text_is_no_topic():
    calls = f"proxy_replace_header_map_value (i32.const 0) {words(32, 5)} {words(100, 2)}"
    with pytest.raises(ModuleError, match="is not UTF-8"):
        opened(probe(calls, more='(data (i32.const 100) "/\\ff")')).handle("raw/x", b"1")


# -- at more than the limits


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (f"proxy_send_local_response (i32.const 200) {NOTHING} {words(0, PAYLOAD_LIMIT_BYTES + 1)} {NOTHING} (i32.const -1)", 2),
        (f"proxy_send_local_response (i32.const 200) {NOTHING} {words(0, -1)} {NOTHING} (i32.const -1)", 2),
        (f"proxy_send_local_response (i32.const 200) {NOTHING} {NOTHING} {words(0, -1)} (i32.const -1)", 2),
        (f"proxy_send_local_response (i32.const -1) {NOTHING} {NOTHING} {NOTHING} (i32.const -1)", 2),
        (f"proxy_add_header_map_value (i32.const 0) {words(0, 3)} {words(0, HEADERS_BYTES + 1)}", 2),
        (f"proxy_add_header_map_value (i32.const 0) {words(0, -1)} {words(0, 3)}", 2),
        (f"proxy_add_header_map_value (i32.const 99) {words(0, 3)} {words(0, 3)}", 2),
        (f"proxy_add_header_map_value (i32.const -1) {words(0, 3)} {words(0, 3)}", 2),
        (f"proxy_get_header_map_pairs (i32.const 8) {OUTS}", 2),
        (f"proxy_get_header_map_size (i32.const -1) (i32.const {OUT})", 2),
        (f"proxy_set_header_map_pairs (i32.const 0) {words(0, 20_000)}", 2),
        (f"proxy_set_header_map_pairs (i32.const 0) {words(100, 12)}", 2),  # sizes of 4 GiB
        (f"proxy_set_header_map_pairs (i32.const 0) {words(120, 4)}", 2),  # 4 G headers
        (f"proxy_get_property {words(0, PROPERTY_PATH_BYTES + 1)} {OUTS}", 2),
        (f"proxy_get_property {words(0, -1)} {OUTS}", 2),
        (f"proxy_get_shared_data {words(0, 257)} {OUTS} (i32.const {OUT + 8})", 1),
        (f"proxy_get_shared_data {words(0, -1)} {OUTS} (i32.const {OUT + 8})", 1),
        (f"proxy_set_shared_data {words(0, 257)} {words(16, 5)} (i32.const 0)", 2),
        (f"proxy_set_shared_data {words(120, 4)} {words(16, 5)} (i32.const 0)", 2),  # a key that is no text
        (f"proxy_set_shared_data {words(0, 3)} {words(16, -1)} (i32.const 0)", 10),
        (f"proxy_set_shared_data {words(0, 3)} {words(16, 5)} (i32.const -1)", 8),
        (f"proxy_define_metric (i32.const 0) {words(0, METRIC_NAME_BYTES + 1)} (i32.const {OUT})", 2),
        (f"proxy_define_metric (i32.const 0) {words(0, -1)} (i32.const {OUT})", 2),
        (f"proxy_define_metric (i32.const 3) {words(0, 3)} (i32.const {OUT})", 2),
        ("proxy_increment_metric (i32.const -1) (i64.const 1)", 1),
        (f"proxy_register_shared_queue {words(0, 3)} (i32.const {OUT})", 12),
        (f"proxy_set_property {words(64, 12)} {words(16, 5)}", 12),
    ],
)
def test_more_than_the_limit_or_a_number_that_is_none_is_a_result_and_not_a_failure(call, result):
    text = '(data (i32.const 100) "\\01\\00\\00\\00\\ff\\ff\\ff\\ff\\ff\\ff\\ff\\ff") (data (i32.const 120) "\\ff\\ff\\ff\\ff")'
    host = opened(probe(call, more=text))
    assert host.handle("raw/x", b"").messages == (("clean/x", bytes((result,))),)


@pytest.mark.parametrize(
    ("values", "result"),
    [
        (f"(i32.const -1) (i32.const 0) {words(0, PAYLOAD_LIMIT_BYTES)}", 2),
        (f"(i32.const 0) (i32.const 0) {words(0, -1)}", 2),
        (f"(i32.const 0) (i32.const 1) {words(0, PAYLOAD_LIMIT_BYTES)}", 0),
    ],
)
def test_a_body_can_not_become_larger_than_a_message(values, result):
    put = f"(i32.store8 (i32.const 4096) (call $put (i32.const 0) {values}))"
    host = opened(probe(more=on_body("(i32.const 0)", put)))
    ((_, body),) = host.handle("raw/x", b"x").messages
    assert host._read(OUT, 1) == bytes((result,))
    assert len(body) == (1 if result else PAYLOAD_LIMIT_BYTES)


def test_a_large_message_may_be_made_smaller_but_no_larger():
    grow = "(i32.store8 (i32.const 4096) (call $put (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 1)))"
    shrink = "(i32.store8 (i32.const 4097) (call $put (i32.const 0) (i32.const 5) (i32.const -1) (i32.const 0) (i32.const 0)))"
    a_bit = "(i32.store8 (i32.const 4098) (call $put (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0)))"
    host = opened(probe(more=on_body("(i32.const 0)", grow + a_bit + shrink)))
    assert host.handle("raw/x", bytes(2 * PAYLOAD_LIMIT_BYTES)).messages == (("clean/x", bytes(5)),)
    assert host._read(OUT, 3) == b"\2\0\0"


def test_a_counter_never_falls_and_no_metric_leaves_64_bits():
    define = f"proxy_define_metric (i32.const 0) {words(0, 3)} (i32.const {OUT})"
    gauge = f"proxy_define_metric (i32.const 1) {words(16, 5)} (i32.const {OUT})"
    calls = f"""{define}\n{gauge}
    proxy_increment_metric (i32.const 0) (i64.const -1)
    proxy_increment_metric (i32.const 0) (i64.const 0x7fffffffffffffff)
    proxy_increment_metric (i32.const 0) (i64.const 0x7fffffffffffffff)
    proxy_increment_metric (i32.const 0) (i64.const 0x7fffffffffffffff)
    proxy_record_metric (i32.const 1) (i64.const -1)
    proxy_get_metric (i32.const 0) (i32.const {OUT})
    proxy_get_metric (i32.const 1) (i32.const {OUT + 8})"""
    host = opened(probe(calls))
    assert host.handle("raw/x", b"").messages[0][1] == bytes((0, 0, 2, 0, 0, 0, 0, 0, 0))
    assert struct.unpack("<QQ", host._read(OUT, 16)) == ((3 * 0x7FFFFFFFFFFFFFFF) % 2**64, 2**64 - 1)


def test_a_clock_before_1970_is_no_failure():
    host = opened(probe(f"proxy_get_current_time_nanoseconds (i32.const {OUT})"))
    host._clock_ns = lambda: -1
    assert host.handle("raw/x", b"").messages == (("clean/x", b"\0"),)


def test_an_allocator_without_room_ends_the_filter_and_nothing_is_written_for_it():
    wasm = probe(
        f"proxy_get_property {words(64, 12)} {OUTS}", more='(func (export "malloc") (param i32) (result i32) (i32.const 0))'
    )
    host = opened(wasm.replace(b"proxy_on_memory_allocate", b"proxy_on_memory_allocat_"))
    with pytest.raises(ContractError, match="the filter's allocator has no room for 6 bytes"):
        host.handle("raw/x", b"1")
    assert host._read(0, 3) == b"x-a"


def test_an_allocator_that_calls_the_host_again_and_again_ends_the_filter():
    again = f"""(func (export "malloc") (param i32) (result i32)
      (drop (call $proxy_get_property {words(64, 12)} {OUTS})) (i32.const 8192))"""
    wasm = probe(f"proxy_get_property {words(64, 12)} {OUTS}", more=again)
    host = opened(wasm.replace(b"proxy_on_memory_allocate", b"proxy_on_memory_allocat_"))
    with pytest.raises((ContractError, Trap, RecursionError)):
        host.handle("raw/x", b"1")


@given(st.data())
@settings(deadline=None)
def test_whatever_numbers_a_filter_calls_the_host_with_there_is_a_result_or_it_ends(data):
    host = opened(probe())
    functions = host._filter_functions()
    edges = [0, 1, 3, 7, 16, 48, 64, 4096, 65_536, 131_071, 131_072, -1, -4, 2**31 - 1, -(2**31)]
    for payload in (b"body", request(b"Host: roof")):
        host._request = http_text.request_of("raw/x", payload, "f")
        for name in data.draw(st.lists(st.sampled_from(sorted(functions)), min_size=5, max_size=20)):
            wanted = [each for each in inspect.signature(functions[name]).parameters.values() if each.kind != each.VAR_POSITIONAL]
            numbers = st.sampled_from(edges) | st.integers(-(2**31), 2**31 - 1)
            try:
                assert functions[name](*(data.draw(numbers) for _ in wanted)) in (0, 1, 2, 7, 8, 10, 12)
            except ContractError as error:
                assert "memory" in str(error)


# -- shared data


def test_a_write_of_a_refused_event_leaves_no_version_behind():
    """The filter writes, then makes of the message what is refused: value and version are those from before."""
    write = f"proxy_set_shared_data {words(0, 3)} {words(16, 5)} (i32.const 0)"
    read = f"proxy_get_shared_data {words(0, 3)} {OUTS} (i32.const {OUT + 8})"
    host = opened(probe(f"{write}\n{read}"), {"routes": "raw/ok=clean/x"})
    versions = []
    for topic in ("raw/ok", "raw/lost", "raw/ok"):
        if topic == "raw/lost":
            with pytest.raises(ModuleError, match="no route"):
                host.handle(topic, b"")
        else:
            host.handle(topic, b"")
        versions.append((int.from_bytes(host._read(OUT + 8, 4), "little"), host._version_of("x-a")))
    (first, kept), (lost, after), (second, now) = versions
    assert (kept, after, now) == (first, first, second)
    assert max(Counter((first, lost, second)).values()) == 1, "a version is given to two values"


# -- how filters are started


def test_a_filter_that_is_a_program_is_started_once():
    start = '(func (export "_start") (i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (i32.const 1))))'
    host = opened(probe(more=start))
    host.handle("raw/x", b"1")
    assert host._read(OUT, 1) == b"\1"


def test_the_main_of_a_filter_that_is_a_reactor_comes_after_its_constructors():
    both = """(func (export "_initialize") (i32.store8 (i32.const 4096) (i32.const 1)))
      (func (export "_start") unreachable)
      (func (export "main") (param i32 i32) (result i32)
        (i32.store8 (i32.const 4097) (i32.load8_u (i32.const 4096))) (i32.const 0))"""
    assert opened(probe(more=both))._read(OUT, 2) == b"\1\1"
