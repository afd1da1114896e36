"""Strict CBOR: what two decoders could read differently is refused before one of them sees it."""

import cbor2
import pytest
from hypothesis import given
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
        (bytes.fromhex("5bffffffffffffffff00"), "ends too early"),
    ],
)
def test_what_is_not_strict_is_refused(data, why):
    error = refused(data)
    assert error.reason is Reason.MALFORMED
    assert why in str(error)


def test_size_is_checked_first():
    assert refused(b"\xff" * 11, limit_bytes=10).reason is Reason.TOO_LARGE


def test_a_named_tag_is_kept_and_its_content_is_plain():
    tagged = cbor.decode(cbor2.dumps(cbor2.CBORTag(18, [{1: [2]}, None])), "it", 100, tags=(18,))
    assert tagged.value == [{1: [2]}, None]
    assert type(tagged.value) is list
    assert type(tagged.value[0]) is dict
