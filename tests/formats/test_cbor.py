"""Strict CBOR: what two decoders could read differently is refused before one of them sees it."""

import struct

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.formats import cbor
from ota.formats.reasons import Reason, Refused

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 99) | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def refused(data: bytes, **kwargs) -> Refused:
    with pytest.raises(Refused) as caught:
        cbor.decode(data, "it", kwargs.pop("limit_bytes", 1000), **kwargs)
    return caught.value


@given(VALUES)
def test_what_is_encoded_is_decoded(value):
    assert cbor.decode(cbor.encode(value), "it", 100_000) == value


@given(st.floats(allow_nan=False))
def test_floats_pass(value):
    assert cbor.decode(cbor.encode([value]), "it", 100) == [value]


@given(st.binary(max_size=60))
def test_garbage_is_refused_or_decoded_but_never_anything_else(data):
    try:
        value = cbor.decode(data, "it", 1000)
    except Refused as error:
        assert error.reason is Reason.MALFORMED
    else:
        assert cbor2.loads(data) == value or value != value


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends too early"),
        (bytes.fromhex("8201"), "ends too early"),
        (bytes.fromhex("0000"), "bytes follow"),
        (bytes.fromhex("9f01ff"), "indefinite"),
        (bytes.fromhex("5f4101ff"), "indefinite"),
        (bytes.fromhex("bf0102ff"), "indefinite"),
        (bytes.fromhex("1817"), "shortest"),
        (bytes.fromhex("190017"), "shortest"),
        (bytes.fromhex("5800"), "shortest"),
        (bytes.fromhex("a201010102"), "twice"),
        (bytes.fromhex("c11a00000000"), "tag 1 "),
        (bytes.fromhex("d81c8100"), "tag 28 "),
        (bytes.fromhex("61ff"), "UTF-8"),
        (bytes.fromhex("f7"), "simple value"),
        (bytes.fromhex("f820"), "simple value"),
        (b"\x81" * 40 + b"\x00", "nested deeper"),
        (bytes.fromhex("9bffffffffffffffff"), "ends too early"),
        (bytes.fromhex("bb7fffffffffffffff"), "ends too early"),
        (bytes.fromhex("a2011863f5182a"), "a key that is not"),  # {1: 99, true: 42}
        (bytes.fromhex("a2011863f93c00182a"), "a key that is not"),  # {1: 99, 1.0: 42}
        (bytes.fromhex("a2000ff400"), "a key that is not"),  # {0: 15, false: 0}
        (bytes.fromhex("a2f9000001f9800002"), "a key that is not"),  # {0.0: 1, -0.0: 2}
        (bytes.fromhex("a1f97e0000"), "a key that is not"),  # {NaN: 0}
        (bytes.fromhex("a1f600"), "a key that is not"),  # {null: 0}
        (bytes.fromhex("a1810100"), "a key that is not"),  # {[1]: 0}
        (bytes.fromhex("81a101a1f500"), "a key that is not"),  # [{1: {true: 0}}]
        (bytes.fromhex("5bffffffffffffffff00"), "ends too early"),
        (bytes.fromhex("18"), "ends too early"),
        (bytes.fromhex("19ff"), "ends too early"),
        (bytes.fromhex("1c" + "ff" * 16), "indefinite"),
        (bytes.fromhex("f93c"), "simple value"),
        (bytes.fromhex("fa3c0000"), "simple value"),
        (bytes.fromhex("fb3c000000000000"), "simple value"),
    ],
)
def test_what_is_not_strict_is_refused(data, why):
    error = refused(data)
    assert error.reason is Reason.MALFORMED
    assert why in str(error)


# A second reader, written from RFC 8949 alone: what it builds must be what the strict decoder and cbor2 build, type by type.


class _Oracle:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise ValueError("short")
        self.at += size
        return self.data[self.at - size : self.at]

    def item(self, depth=0):
        head = self.take(1)[0]
        major, low = head >> 5, head & 31
        if depth > cbor.MAX_DEPTH:
            raise ValueError("deep")
        if major == 7:
            return self.simple(low)
        number = low if low < 24 else int.from_bytes(self.take({24: 1, 25: 2, 26: 4, 27: 8}[low]))
        if low >= 24 and number < {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}[low]:
            raise ValueError("long form")
        if major < 2:
            return number if major == 0 else -1 - number
        if major < 4:
            content = self.take(number)
            return content.decode() if major == 3 else content
        if major == 4:
            return [self.item(depth + 1) for _ in range(number)]
        if major == 6:
            raise ValueError("tag")
        pairs = []
        for _ in range(number):
            key = self.item(depth + 1)
            pairs.append((key, self.item(depth + 1)))
        if any(type(key) not in (int, bytes, str) for key, _ in pairs) or len({repr(key) for key, _ in pairs}) < len(pairs):
            raise ValueError("keys")
        return dict(pairs)

    def simple(self, low):
        if low in (20, 21, 22):
            return {20: False, 21: True, 22: None}[low]
        return struct.unpack({25: ">e", 26: ">f", 27: ">d"}[low], self.take({25: 2, 26: 4, 27: 8}[low]))[0]


def by_oracle(data):
    reader = _Oracle(data)
    value = reader.item()
    if reader.at != len(data):
        raise ValueError("more")
    return value


HEADS = st.integers(0, 255).map(lambda byte: bytes((byte,)))
NEARLY = st.one_of(
    st.binary(max_size=40),
    st.lists(HEADS | st.sampled_from([b"\xa2", b"\xa1", b"\x81", b"\x01", b"\xf5", b"\xf9\x3c\x00", b"\x41a", b"\x61a"])).map(
        b"".join
    ),
    VALUES.map(lambda value: cbor2.dumps(value, canonical=True)),
)


@settings(max_examples=1000)
@given(NEARLY)
def test_a_second_reader_agrees_on_what_is_strict_and_what_it_says(data):
    try:
        expected = by_oracle(data)
    except (ValueError, KeyError):
        assert refused(data).reason is Reason.MALFORMED
    else:
        assert repr(cbor.decode(data, "it", 1000)) == repr(expected)  # repr: 1, True and 1.0 are told apart, NaN is like NaN


def test_what_the_decoder_behind_it_refuses_is_malformed():
    assert refused(bytes.fromhex("d81d00"), tags=(29,)).reason is Reason.MALFORMED  # a reference to what is not there


@pytest.mark.parametrize(
    "value",
    [memoryview(b"a"), cbor2.CBORTag(18, memoryview(b"a")), [bytearray(b"a")], {1: {2}}, {1: [range(2)]}, {frozenset({1}): 2}],
)
def test_what_cbor2_versions_encode_differently_is_not_encoded(value):
    with pytest.raises(TypeError, match="has no CBOR form here"):
        cbor.encode(value)


def test_size_is_checked_first():
    assert refused(b"\xff" * 11, limit_bytes=10).reason is Reason.TOO_LARGE


@pytest.mark.parametrize("around", [b"\x81", b"\xa1\x01", b"\xd2"], ids=["arrays", "maps", "tags"])
def test_items_nest_up_to_the_depth_and_no_deeper(around):
    assert cbor.decode(around * cbor.MAX_DEPTH + b"\x05", "it", 1000, tags=(18,)) is not None
    for deeper in (1, 2, 300):
        assert "nested deeper" in refused(around * (cbor.MAX_DEPTH + deeper) + b"\x05", tags=(18,)).detail


def test_a_named_tag_is_kept_and_its_content_is_plain():
    tagged = cbor.decode(cbor2.dumps(cbor2.CBORTag(18, [{1: [2]}, None])), "it", 100, tags=(18,))
    assert tagged.value == [{1: [2]}, None]
    assert type(tagged.value) is list
    assert type(tagged.value[0]) is dict
