"""Packets between agent and worker: what goes in comes out, and nothing else is taken."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.channel import frames
from device_agent.channel.frames import Done, Event, Events, KeyWrite, Usage
from ota.formats import cbor
from ota.formats.reasons import Reason, Refused

topics = st.text(max_size=60)
numbers = st.integers(0, (1 << 53) - 1)
writes = st.builds(KeyWrite, topics, st.none() | st.binary(max_size=300))
messages = st.lists(st.tuples(topics, st.binary(max_size=300), topics), max_size=8)
dones = st.builds(
    lambda said, *rest: Done(
        tuple((topic, payload) for topic, payload, _ in said),
        *rest,
        {place: answer for place, (*_, answer) in enumerate(said) if answer},
    ),
    messages,
    st.lists(writes, max_size=8).map(tuple),
    st.builds(Usage, numbers, numbers, numbers),
)


@given(st.lists(st.builds(Event, topics, st.binary(max_size=300), topics | st.just("")), min_size=1, max_size=16))
def test_events_arrive_as_they_were(row):
    packet = frames.encode_request(Events(tuple(row)))
    assert frames.decode_request(packet) == Events(tuple(row))
    assert len(packet) - 1 == sum(frames.size_of(each) - 1 for each in row)


@given(st.builds(Event, topics, st.binary(max_size=300)), st.data())
def test_events_that_were_cut_are_refused(event, data):
    packet = frames.encode_request(Events((event,)))
    with pytest.raises(Refused, match="malformed"):
        frames.decode_request(packet[: data.draw(st.integers(1, len(packet) - 1))])


@given(dones)
def test_an_answer_arrives_as_it_was(done):
    assert frames.decode_answer(frames.encode_answer(done)) == done


@given(st.sampled_from([b"", b"D", b"E"]), st.binary(max_size=400))
def test_whatever_comes_is_a_packet_or_refused(head, data):
    for decode in (frames.decode_answer, frames.decode_request):
        try:
            decode(head + data)
        except Refused as error:
            assert error.reason is Reason.MALFORMED


@given(dones, st.data())
def test_an_answer_that_was_cut_or_lengthened_is_refused(done, data):
    packet = frames.encode_answer(done)
    for wrong in (packet[: data.draw(st.integers(0, len(packet) - 1))], packet + b"\0"):
        with pytest.raises(Refused):
            frames.decode_answer(wrong)


@pytest.mark.parametrize(
    "done",
    [
        Done((("t", b""),) * (frames.MESSAGES_PER_EVENT + 1), ()),
        Done((("t", bytes(frames.PAYLOAD_LIMIT_BYTES + 1)),), ()),
        Done((), (), Usage(host_calls=1 << 53)),
        Done((("t", bytes(frames.PAYLOAD_LIMIT_BYTES)),) * 20, ()),
    ],
    ids=["messages", "payload", "number", "packet"],
)
def test_an_answer_beyond_a_limit_is_refused(done):
    with pytest.raises(Refused):
        frames.decode_answer(frames.encode_answer(done))


def test_a_write_that_deletes_and_keeps_at_once_is_refused():
    packet = bytearray(frames.encode_answer(Done((), (KeyWrite("key", b"value"),))))
    at = packet.index(b"\1\5\0\0\0")
    packet[at] = 0
    with pytest.raises(Refused, match="neither sets nor deletes"):
        frames.decode_answer(bytes(packet))


def test_lengths_beyond_the_packet_are_refused_before_they_are_added_up():
    """On 32 bits their sum is no offset any more."""
    for head in (frames._WRITE_HEAD.pack(1, 1, 0xFFFFFFFF), frames._WRITE_HEAD.pack(0xFFFF, 0, 0)):
        packet = frames._DONE_HEAD.pack(ord("D"), 0, 2, 0, 0, 0) + head + b"k"
        with pytest.raises(Refused, match="longer than its limit"):
            frames.decode_answer(packet)


def test_a_packet_beyond_the_limit_is_refused_by_its_size():
    with pytest.raises(Refused) as caught:
        frames.decode_answer(b"\x81" + bytes(frames.FRAME_LIMIT_BYTES))
    assert caught.value.reason is Reason.TOO_LARGE


def test_an_event_beyond_the_limit_is_refused_and_not_cut():
    packet = frames.encode_request(Events((Event("t", bytes(frames.FRAME_LIMIT_BYTES)),)))
    assert len(packet) == frames.size_of(frames.Event("t", bytes(frames.FRAME_LIMIT_BYTES)))
    with pytest.raises(Refused, match="longer than 1048576 bytes"):
        frames.decode_request(packet[: frames.FRAME_LIMIT_BYTES + 1])


def test_a_worker_looks_for_a_packet_only_where_the_one_before_came_soon(monkeypatch):
    """What it looks for in vain takes the processor from others."""
    now_ns, late_ns, looked = 0, 0, 0

    def clock() -> int:
        nonlocal now_ns
        now_ns += 1000
        return now_ns

    class Channel:
        def recv_into(self, buffer, *flags: int) -> int:
            nonlocal now_ns, looked
            if flags:
                looked += 1
                raise BlockingIOError
            now_ns += late_ns
            return 1

    monkeypatch.setattr(frames, "PROCESSORS", 2)
    monkeypatch.setattr(frames, "time", SimpleNamespace(perf_counter_ns=clock))
    receiver, found = frames.Receiver(), []
    for each in (1_000_000, 1_000_000, 5000, 5000):
        late_ns, looked = each, 0
        receiver.take_soon(Channel())
        found.append(looked > 0)
    assert found == [True, False, False, True]


@pytest.mark.parametrize("numbers", [[], [1, 2], [1, 2, -3], [1, 2, 1 << 53], [1, 2, "3"], [1, 2, 3, 4]])
def test_a_usage_that_is_none_is_refused(numbers):
    for head in (["refused", "no"], ["failed", "trapped", "why"]):
        with pytest.raises(Refused, match="its usage is not a list of numbers"):
            frames.decode_answer(cbor.encode([*head, *numbers]))
