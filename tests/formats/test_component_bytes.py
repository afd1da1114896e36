"""How long each part of a component is: what stands behind a part is found, and nothing in it is."""

import pytest

from ota.formats import component
from ota.formats.component import MAX_SECTIONS, Role
from ota.formats.reasons import Reason, Refused
from tests.formats.test_component import CODE, EMPTY, holding, leb, section

UNKNOWN = b"\x30"  # a canonical function that is not known: what is behind it is not looked at
FOUND = "canonical function 0x30"


def canonical(*functions: bytes) -> component.Component:
    return component.read(holding(section(8, leb(len(functions)) + b"".join(functions))))


@pytest.mark.parametrize("function", [b"\0\0\x30\0\x31", b"\1\0\x31\0", b"\2\x31", b"\3\x31", b"\4\x31"])
def test_canonical_functions_that_boards_know_are_read_to_their_end(function):
    assert canonical(function).is_async == ""
    assert canonical(function, UNKNOWN).is_async == FOUND
    assert canonical(UNKNOWN, b"\x31").is_async == FOUND


@pytest.mark.parametrize(
    ("option", "encoding", "is_async"),
    [
        (b"\0", "", ""), (b"\1", "UTF-16", ""), (b"\2", "Latin-1 or UTF-16", ""), (b"\3\x09", "", ""), (b"\4\x09", "", ""),
        (b"\5\x09", "", ""), (b"\6", "", "canonical option async"), (b"\7\x09", "", "canonical option async"),
    ],
)  # fmt: skip
def test_options_are_read_to_their_end(option, encoding, is_async):
    found = canonical(b"\1\0\0\2" + option + b"\4\x08", b"\2\0")
    assert (found.encoding, found.is_async) == (encoding, is_async)
    assert canonical(b"\1\0\0\1" + option, UNKNOWN).is_async == (is_async or FOUND)


def test_the_first_sign_of_async_is_told():
    assert canonical(UNKNOWN).is_async == FOUND
    two = holding(section(8, b"\1\x30"), section(8, b"\1\x31"), section(8, b"\1\1\0\0\1\6"))
    assert component.read(two).is_async == FOUND


TYPES = (b"\0\x11\x01", b"\1\x01", b"\2\0\x01", b"\3\0\x01", b"\3\1", b"\4\x01", b"\5\x01")  # of what is imported or exported


@pytest.mark.parametrize("kind", TYPES)
def test_types_are_read_to_their_end(kind):
    one = b"\0\1a" + kind
    assert component.read(holding(section(10, b"\2" + one + b"\0\1b\1\0"))).imports == ("a", "b")
    exported = b"\0\1a\1\0\1" + kind
    assert component.read(holding(section(11, b"\2" + exported + b"\0\1b\1\0\0"))).exports == ("a", "b")


@pytest.mark.parametrize("sort", [b"\0\x11\x01", b"\1\x01", b"\5\x01"])
def test_what_is_exported_is_read_to_its_end(sort):
    found = component.read(holding(section(11, b"\2\0\1a" + sort + b"\0" + b"\0\1b\1\0\0")))
    assert found.exports == ("a", "b")


def test_names_have_a_kind_and_some_say_more():
    for form, more in ((0, b""), (1, b""), (2, b"\1\0\3x:y")):
        data = holding(section(10, b"\2" + bytes((form,)) + b"\1a" + more + b"\1\0" + b"\0\1b\1\0"))
        assert component.read(data).imports == ("a", "b")
    with pytest.raises(Refused, match="a name of kind 3"):
        component.read(holding(section(10, b"\1\3\1a\0\1\0")))


def test_names_inside_are_not_those_of_the_outermost_component():
    inner = holding(section(10, b"\1\0\1a\1\0"))
    assert component.read(holding(section(4, inner))).imports == ()


def test_a_component_may_be_as_large_as_allowed(monkeypatch):
    data = holding(section(1, EMPTY))
    monkeypatch.setattr(component, "BLOB_LIMIT_BYTES", len(data))
    assert component.read(data).cores[0].size == len(EMPTY)
    with pytest.raises(Refused) as refusal:
        component.read(data + section(0, b"\1n"))
    assert refusal.value.reason is Reason.TOO_LARGE


def test_a_component_may_have_as_many_sections_as_allowed_and_each_kind_of_them():
    assert component.read(holding(b"\x02\0" * MAX_SECTIONS)).cores == ()
    for kind in (0, 2, 3, 5, 6, 7, 12):
        assert component.read(holding(section(kind, b"\1n"))).cores == ()


def core(*sections: bytes) -> component.Core:
    return component.read(holding(section(1, EMPTY + b"".join(sections)))).cores[0]


TABLE, MEMORY, NAMED = b"\x08$imports\1\0", b"\1\3env\6memory\2\0\1", b"\1\1f\0\0"
FILLED = section(10, b"\1\2\0\x0b")


@pytest.mark.parametrize(
    ("sections", "role"),
    [
        ((section(10, b"\0"),), Role.EMPTY), ((FILLED,), Role.MAIN), ((FILLED, section(10, b"\0")), Role.MAIN),
        ((section(7, b"\1" + TABLE), FILLED), Role.SHIM), ((section(7, b"\2" + TABLE + b"\2\x31\x30\0\0"), FILLED), Role.SHIM),
        ((section(7, b"\2" + TABLE + b"\1f\0\0"), FILLED), Role.MAIN), ((section(7, b"\1\6others\1\0"), FILLED), Role.MAIN),
        ((section(2, b"\1\1a\1b\0\0"), section(7, b"\1" + TABLE), FILLED), Role.MAIN),
        ((section(2, MEMORY), section(7, b"\1\7fd_read\0\0"), FILLED), Role.ADAPTER),
        ((section(2, MEMORY), section(7, NAMED), FILLED), Role.LINKED), ((section(2, MEMORY), FILLED), Role.LINKED),
        ((section(2, b"\1\3env\5other\2\0\1"), section(7, b"\1\7fd_read\0\0"), FILLED), Role.LINKED),
        ((section(2, b"\1\1a\x08$imports\1\x70\0\1"),), Role.FIXUPS),
        ((section(2, b"\1\1a\x08$imports\2\0\1"), FILLED), Role.LINKED),
    ],
)  # fmt: skip
def test_a_core_module_is_told_by_what_it_imports_exports_and_has(sections, role):
    assert core(*sections).role is role


def test_long_names_are_cut_where_they_are_kept():
    long = b"[async-lift]" + b"x" * 200
    exported = section(7, b"\1" + leb(len(long)) + long + b"\0\0")
    data = holding(section(1, EMPTY + exported + CODE[8:]))
    assert component.read(data).is_async == long.decode()[:100]
    later = b"wasi:io/" + b"x" * 200 + b"@0.3.0"
    assert component.read(holding(section(10, b"\1\0" + leb(len(later)) + later + b"\5\0"))).is_async == later.decode()[:100]
