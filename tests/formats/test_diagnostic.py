"""Diagnostic notation at its edges: how deep, how wide, what is nested, and what an error says of the place."""

import cbor2
import pytest

from ota.formats.diagnostic import MAX_DEPTH, diagnostic


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("17", "23"), ("1818", "24"), ("190100", "256"), ("1a00010000", "65536"), ("1b0000000100000000", "4294967296"),
        ("37", "-24"),
        ("3818", "-25"), ("e0", "simple(0)"), ("f3", "simple(19)"), ("f4", "false"), ("f5", "true"), ("f6", "null"),
        ("f7", "undefined"),
        ("f818", "simple(24)"), ("f93e00", "1.5"), ("fa3fc00000", "1.5"),
        ("fb3ff8000000000000", "1.5"), ("fb7ff0000000000000", "Infinity"),
        ("9fff", "[_ ]"), ("829fff01", "[[_ ], 1]"), ("bfff", "{_ }"), ("5fff", "(_ )"), ("7f61616162ff", '(_ "a", "b")'),
        ("d81801", "24(1)"),
        ("40", "h''"),
        ("4101", "h'01'"), ("4180", "<< [] >>"), ("41a0", "<< {} >>"), ("42c101", "<< 1(1) >>"), ("4161", "h'61'"),
        ("4120", "h'20'"),
        ("428000", "h'8000'"), ("4181", "h'81'"), ("41e0", "h'e0'"), ("8241804101", "[<< [] >>, h'01']"),
    ],
)  # fmt: skip
def test_each_kind_of_item_is_written_as_the_rfc_has_it(data, shown):
    assert diagnostic(bytes.fromhex(data)) == shown


def test_a_list_or_map_of_more_than_a_line_has_a_line_for_each_item():
    fits, beyond = ["a" * 48, "b" * 48], ["a" * 48, "b" * 49]
    assert diagnostic(cbor2.dumps(fits)) == f'["{fits[0]}", "{fits[1]}"]'
    assert diagnostic(cbor2.dumps(beyond)) == f'[\n  "{beyond[0]}",\n  "{beyond[1]}"\n]'
    assert diagnostic(cbor2.dumps({1: beyond})) == f'{{\n  1: [\n    "{beyond[0]}",\n    "{beyond[1]}"\n  ]\n}}'
    assert diagnostic(cbor2.dumps([[[beyond]]])).splitlines()[3] == "      ["
    indefinite = b"\x9f" + cbor2.dumps(beyond[0]) + cbor2.dumps(beyond[1]) + b"\xff"
    assert diagnostic(indefinite) == f'[_ \n  "{beyond[0]}",\n  "{beyond[1]}"\n]'


def test_what_is_nested_in_bytes_keeps_its_indentation():
    beyond = ["a" * 48, "b" * 49]
    shown = diagnostic(cbor2.dumps([cbor2.dumps(beyond)]))
    assert shown == f'[\n  << [\n    "{beyond[0]}",\n    "{beyond[1]}"\n  ] >>\n]'


@pytest.mark.parametrize(("around", "at"), [(b"\x81", 65), (b"\xc1", 65), (b"\xa1\x01", 129), (b"\x9f", 65)])
def test_items_nest_up_to_the_depth_and_no_deeper(around, at):
    closing = b"\xff" if around == b"\x9f" else b""
    assert diagnostic(around * MAX_DEPTH + b"\x01" + closing * MAX_DEPTH).count("1")
    with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH} at byte {at}$"):
        diagnostic(around * (MAX_DEPTH + 1) + b"\x01" + closing * (MAX_DEPTH + 1))


def test_keys_of_maps_are_as_deep_as_values():
    deep = b"\xa1" * MAX_DEPTH + b"\x01" + b"\x02" * MAX_DEPTH
    assert diagnostic(deep).count(": 2") == MAX_DEPTH
    with pytest.raises(ValueError, match="nested deeper"):
        diagnostic(b"\xa1" + deep + b"\x02")


def test_bytes_in_bytes_are_looked_into_twelve_times():
    data = b"\x80"
    for _ in range(13):
        data = cbor2.dumps([data])
    shown = diagnostic(data)
    assert shown.count("<<") == 12
    assert "[<< [h'80'] >>]" in shown
    assert diagnostic(cbor2.dumps([cbor2.dumps([b"\x80"])])) == "[<< [<< [] >>] >>]"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("1c", "byte 0 begins no item"), ("811c", "byte 1 begins no item"), ("81fc", "byte 1 begins no item"),
        ("f9", "it ends after 1 bytes, in the middle of an item"),
        ("81fe", "byte 1 begins no item"), ("8161ff", "the text at byte 1 is not UTF-8"), ("81ff", "byte 1 begins no item"),
        ("8241", "it ends in the middle of an item that begins at byte 0"),
        ("818201", "it ends in the middle of an item that begins at byte 1"),
        ("818161", "it ends after 3 bytes, in the middle of an item"), ("0102", "1 bytes follow the item that ends at byte 1"),
        ("1fff", "byte 0 begins no item"), ("3f", "byte 0 begins no item"), ("df", "byte 0 begins no item"), ("420", "")
    ][:-1],
)  # fmt: skip
def test_an_error_says_where(data, why):
    with pytest.raises(ValueError, match=f"^{why}$"):
        diagnostic(bytes.fromhex(data))
