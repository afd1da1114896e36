"""How long each part of a module is to the one that looks for proposals: what follows a part is found, and nothing in it is."""

import re

import pytest

from ota.formats import features
from ota.formats.features import beyond_core
from ota.formats.reasons import Reason, Refused

HEAD = b"\0asm\1\0\0\0"
INSIDE, BEHIND = 0x12, b"\xd3"  # return_call, if a number was taken for an instruction; ref.eq, which nothing follows
NUMBERS = {  # instructions of core 2.0 that numbers follow, and how many
    **dict.fromkeys((0x0C, 0x0D, 0x10, *range(0x20, 0x27), 0x3F, 0x40, 0x41, 0x42, 0xD2), 1), 0x11: 2,
    **dict.fromkeys((0x00, 0x01, 0x05, 0x0B, 0x0F, 0x1A, 0x1B, *range(0x45, 0xC5), 0xD1), 0),
    **dict.fromkeys(range(0x28, 0x3F), 2),
}  # fmt: skip
OTHERS = {  # those of proposals
    **dict.fromkeys((0x07, 0x09, 0x18), ("legacy-exceptions", 1)), 0x19: ("legacy-exceptions", 0), 0x08: ("exceptions", 1),
    0x0A: ("exceptions", 0), 0x12: ("tail-calls", 1), 0x13: ("tail-calls", 2), 0x14: ("function-references", 1),
    0x15: ("function-references", 1), 0xD3: ("gc", 0), 0xD4: ("function-references", 0), 0xD5: ("function-references", 1),
    0xD6: ("function-references", 1),
}  # fmt: skip
UNASSIGNED = (0x16, 0x17, 0x1D, 0x1E, 0x27, *range(0xC5, 0xD0), *range(0xD7, 0xE0), *range(0xE7, 0xFB))
NEWER = {"a newer proposal"}
LONG = {  # after 0xFC: numbers, and the proposal
    **dict.fromkeys(range(8), (0, set())), 8: (2, set()), 9: (1, set()), 10: (2, set()), 11: (1, set()), 12: (2, set()),
    13: (1, set()), 14: (2, set()), 15: (1, set()), 16: (1, set()), 17: (1, set()), 18: (0, NEWER),
    **dict.fromkeys((19, 20, 21, 22), (0, {"wide-arithmetic"})), 23: (0, NEWER), 47: (0, NEWER),
    48: (2, {"half-precision"}), 49: (2, {"half-precision"}), 50: (0, NEWER), 200: (0, NEWER),
}  # fmt: skip
RELAXED, HALF = {"relaxed-simd"}, {"half-precision"}
VECTOR = {  # after 0xFD: numbers, other bytes, and the proposal
    **dict.fromkeys(range(12), (2, 0, set())), 12: (0, 16, set()), 13: (0, 16, set()),
    **dict.fromkeys(range(14, 21), (0, 0, set())),
    **dict.fromkeys(range(21, 35), (0, 1, set())), **dict.fromkeys(range(35, 84), (0, 0, set())),
    **dict.fromkeys(range(84, 92), (2, 1, set())), 92: (2, 0, set()), 93: (2, 0, set()),
    **dict.fromkeys(range(94, 256), (0, 0, set())), **dict.fromkeys(range(0x100, 0x114), (0, 0, RELAXED)),
    **dict.fromkeys(range(0x114, 0x120), (0, 0, NEWER)), 0x120: (0, 0, HALF), 0x121: (0, 1, HALF), 0x122: (0, 1, HALF),
    **dict.fromkeys(range(0x123, 0x150), (0, 0, HALF)), 0x150: (0, 0, NEWER), 0x1000: (0, 0, NEWER),
}  # fmt: skip


def leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def section(kind: int, content: bytes) -> bytes:
    return HEAD + bytes((kind,)) + leb(len(content)) + content


def code(*bodies: bytes) -> bytes:
    """Functions, each as its locals and instructions."""
    return section(10, leb(len(bodies)) + b"".join(leb(len(each)) + each for each in bodies))


@pytest.fixture(params=["rows at once", "one by one"])
def both_ways(request, monkeypatch):
    """Rows of plain instructions are skipped at once: each test says the same of one that is looked at."""
    if request.param == "one by one":
        monkeypatch.setattr(features, "_PLAIN", re.compile(b""))


def found(*instructions: int | bytes) -> set[str]:
    """The proposals of a function of these instructions and what is behind them."""
    body = b"".join(each if isinstance(each, bytes) else bytes((each,)) for each in instructions)
    return set(beyond_core(code(b"\0" + body + BEHIND)))


NUMBER = leb(INSIDE)


def test_numbers_behind_an_instruction_are_no_instructions_and_no_more_than_there_are(both_ways):
    for opcode, many in NUMBERS.items():
        assert (opcode, found(opcode, NUMBER * many)) == (opcode, {"gc"})
        if many:
            assert (opcode, found(opcode, b"\x92\x80\x00" + NUMBER * (many - 1))) == (opcode, {"gc"})  # the longer way to write it


def test_instructions_of_proposals_are_named_with_what_follows_them(both_ways):
    for opcode, (name, many) in OTHERS.items():
        inside = 0x14 if name == "tail-calls" else INSIDE
        assert (opcode, found(opcode, leb(inside) * many)) == (opcode, {name, "gc"})
    for opcode in range(0xE0, 0xE7):  # of these it is not known what follows
        assert (opcode, found(opcode)) == (opcode, {"stack-switching"})


def test_what_no_instruction_begins_with_is_of_a_newer_proposal_and_the_rest_is_not_looked_at(both_ways):
    for opcode in UNASSIGNED:
        assert (opcode, found(opcode)) == (opcode, NEWER)


def test_long_instructions_are_as_long_as_they_are(both_ways):
    for number, (many, names) in LONG.items():
        assert (number, found(0xFC, leb(number), NUMBER * many)) == (number, names | (set() if names == NEWER else {"gc"}))


def test_vector_instructions_are_as_long_as_they_are(both_ways):
    for number, (many, more, names) in VECTOR.items():
        body = (0xFD, leb(number), NUMBER * many, bytes((INSIDE,)) * more)
        assert (number, found(*body)) == (number, names | {"gc"})


def test_atomic_instructions_have_a_memory_argument_but_for_the_fence(both_ways):
    assert found(0xFE, 3, INSIDE) == {"threads", "gc"}
    for number in (0, 1, 2, 4, 0x10, 0x4E):
        assert (number, found(0xFE, number, NUMBER * 2)) == (number, {"threads", "gc"})


def test_the_number_of_a_memory_is_part_of_the_argument(both_ways):
    for load in (b"\x28", b"\xfd\0", b"\xfc\x30", b"\xfe\x10"):
        assert "tail-calls" not in found(load, 0x42, NUMBER * 2)
        assert "gc" in found(load, 0x42, NUMBER * 2)


def test_gc_and_strings_are_told_by_the_number_and_the_rest_is_not_looked_at(both_ways):
    for number, name in ((0, "gc"), (0x1E, "gc"), (0x7F, "gc"), (0x80, "stringref"), (0xBF, "stringref"), (0xC0, "gc")):
        assert (number, found(0xFB, leb(number), INSIDE)) == (number, {name})


def test_what_is_of_no_known_prefix_is_of_a_newer_proposal(both_ways):
    assert found(0xFF, 0) == NEWER


def test_blocks_have_a_type_that_is_a_byte_or_a_number(both_ways):
    for opcode in (2, 3, 4):
        for kind in (0x40, 0x7F, 0x7B, 0x70, 0x6F, INSIDE):
            assert (opcode, kind, found(opcode, kind)) == (opcode, kind, {"gc"})
        assert found(opcode, b"\x92\x01") == {"gc"}  # the type with that number
        assert found(opcode, 0x69) == {"exceptions", "gc"}  # exnref
        assert found(opcode, 0x64, INSIDE) == {"function-references", "gc"}
        assert found(opcode, 0x63, INSIDE) == {"function-references", "gc"}
    assert found(0x06, INSIDE) == {"legacy-exceptions", "gc"}


def test_handlers_of_try_table_have_a_tag_or_none(both_ways):
    handlers = (b"\0" + NUMBER * 2, b"\1" + NUMBER * 2, b"\2" + NUMBER, b"\3" + NUMBER)
    for each in handlers:
        assert (each, found(0x1F, 0x40, b"\1", each)) == (each, {"exceptions", "gc"})
    assert found(0x1F, 0x40, b"\4", *handlers) == {"exceptions", "gc"}


def test_labels_and_types_are_counted(both_ways):
    assert found(0x0E, 3, NUMBER * 4) == {"gc"}
    assert found(0x0E, 0, NUMBER) == {"gc"}
    assert found(0x1C, 2, b"\x7f\x7f") == {"gc"}
    assert found(0x1C, 1, b"\x69") == {"exceptions", "gc"}
    assert found(0xD0, INSIDE) == {"gc"}
    assert found(0xD0, 0x69) == {"exceptions", "gc"}


def test_constants_are_as_long_as_they_are(both_ways):
    assert found(0x43, bytes((INSIDE,)) * 4) == {"gc"}
    assert found(0x44, bytes((INSIDE,)) * 8) == {"gc"}


def test_locals_are_a_count_and_a_type_each():
    assert beyond_core(code(b"\2\x92\1\x7f" + NUMBER + b"\x7f" + BEHIND)) == ("gc",)
    assert beyond_core(code(b"\1\1\x64\x70\x0b")) == ("function-references",)


def test_a_function_that_is_not_known_hides_none_of_the_others():
    assert set(beyond_core(code(b"\0\xf0", b"\0\xd3\x0b"))) == {"a newer proposal", "gc"}
    assert set(beyond_core(code(b"\0\x12\0\xf0", b"\0\xf0"))) == {"a newer proposal", "tail-calls"}


def constant(*parts: int | bytes) -> set[str]:
    """The proposals of a global with this value, after whose end a table's reference type tells that it was found."""
    value = b"".join(each if isinstance(each, bytes) else bytes((each,)) for each in parts)
    return set(beyond_core(section(6, b"\2\x7f\0" + value + b"\x0b" + b"\x64\x70\0\x0b")))


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (b"\x41\x0b", set()), (b"\x42\x0b", set()), (b"\x41\x8b\0", set()), (b"\xd2\x0b", set()), (b"\xd0\x0b", set()),
        (b"\x43" + b"\x0b" * 4, set()), (b"\x44" + b"\x0b" * 8, set()), (b"\xfd\x0c" + b"\x0b" * 16, set()),
        (b"\xd0\x69", {"exceptions"}), (b"\xd0\x71", {"gc"}), (b"\x23\x0b", {"gc"}),
        *((bytes((each,)), set()) for each in (0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E)),
    ],
)  # fmt: skip
def test_the_value_of_a_global_ends_where_it_ends(value, names):
    assert constant(value) == names | {"function-references"}


@pytest.mark.parametrize(
    ("value", "names"),
    [(b"\xfb\0", {"gc"}), (b"\xfb\x82\1", {"stringref"}), (b"\x01", NEWER), (b"\x69", NEWER), (b"\x6d", NEWER), (b"\x7b", NEWER),
     (b"\x7f", NEWER), (b"\xd3", {"gc"}), (b"\xfe\0", {"threads"}), (b"\xfc\0", NEWER)],
)  # fmt: skip
def test_what_is_no_constant_is_told_and_the_rest_is_not_looked_at(value, names):
    assert constant(value) == names


def test_a_global_that_is_imported_may_be_read_and_one_of_the_module_itself_may_not():
    for imported, number, name in ((b"\3\x7f\0", 0, ()), (b"\3\x7f\0", 1, ("gc",)), (b"\0\0", 0, ("gc",))):
        value = section(6, b"\1\x7f\0\x23" + leb(number) + b"\x0b").removeprefix(HEAD)
        assert beyond_core(section(2, b"\1\1a\1b" + imported) + value) == name


REFERENCE = b"\x64\x70"


@pytest.mark.parametrize(
    ("types", "names"),
    [
        (b"\1\x60\2\x7f\x7e\1" + REFERENCE, {"function-references"}),
        (b"\2\x60\1" + REFERENCE + b"\1\x7f\x60\0\1\x69", {"function-references", "exceptions"}),
        (b"\2\x60\0\0\x60\0\1\x69", {"exceptions"}), (b"\2\x4e\1\x60\0\1\x69", {"gc"}), (b"\1\x4f\0", {"gc"}),
        (b"\1\x50\0", {"gc"}),
        (b"\1\x5e\x7f\0", {"gc"}), (b"\1\x5f\0", {"gc"}), (b"\1\x5d\0", {"stack-switching"}), (b"\1\x61\0\0", NEWER),
        (b"\1\x4d", NEWER), (b"\1\x51", NEWER), (b"\1\x60\1\x63\x70\0", {"function-references"}),
        (b"\1\x60\1\x64\x85\x01\1\x69", {"function-references", "exceptions"}),
        *((bytes((1, 0x60, 1, each, 0)), {"exceptions"}) for each in (0x69, 0x74)), (b"\1\x60\1\x67\0", {"stringref"}),
        *((bytes((1, 0x60, 1, each, 0)), {"gc"}) for each in (0x6A, 0x6B, 0x6C, 0x6D, 0x6E, 0x71, 0x72, 0x73)),
        *((bytes((1, 0x60, 1, each, 0)), set()) for each in (0x68, 0x6F, 0x70, 0x75, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F)),
        (b"\1\x60\1\x64\x6e\0", {"function-references", "gc"}),
    ],
)  # fmt: skip
def test_types_are_read_to_their_end(types, names):
    assert set(beyond_core(section(1, types))) == names


TAG = b"\1e\1t\4\0\0"  # an import that is told whatever is before it, if that is read to its end


@pytest.mark.parametrize(
    ("imported", "names"),
    [
        (b"\1a\1b\0\x92\0", set()), (b"\1a\1b\1\x70\0\x92\0", set()), (b"\1a\1b\1\x70\1\1\x92\0", set()),
        (b"\1a\1b\1\x70\4\1", {"table64"}),
        (b"\1a\1b\1" + REFERENCE + b"\0\1", {"function-references"}), (b"\1a\1b\2\0\1", set()), (b"\1a\1b\2\4\1", {"memory64"}),
        (b"\1a\1b\2\3\1\1", {"threads"}), (b"\1a\1b\2\x08\1\0", {"custom-page-sizes"}),
        (b"\1a\1b\2\x0f\1\1\0", {"threads", "memory64", "custom-page-sizes"}),
        (b"\1a\1b\3\x7f\0", set()), (b"\1a\1b\3\x69\1", {"exceptions"}), (b"\1a\0\0\0", set()),
        (b"\1a\1b\4\5\x92\0", {"exceptions"}),
        (b"\0\0\0\0", set()),
    ],
)  # fmt: skip
def test_imports_are_read_to_their_end(imported, names):
    assert set(beyond_core(section(2, b"\2" + imported + TAG))) == names | {"exceptions"}


@pytest.mark.parametrize(
    ("imported", "names"),
    [
        (b"\1a\0\x7f", {"compact-imports"}), (b"\1a\0\x7e", {"compact-imports"}), (b"\1a\1b\x7f", NEWER), (b"\1a\0\x7d", NEWER),
        (b"\1a\1b\5\0", NEWER), (b"\1a\1b\2\x10\1", NEWER), (b"\1a\1b\1\x70\x10\1", NEWER),
    ],
)  # fmt: skip
def test_what_is_behind_an_import_that_is_not_known_is_not_looked_at(imported, names):
    assert set(beyond_core(section(2, b"\2" + imported + TAG))) == names


def test_two_memories_are_one_too_many_wherever_they_come_from():
    memory = b"\1a\1b\2\0\1"
    assert beyond_core(section(2, b"\1" + memory)) == ()
    assert beyond_core(section(2, b"\2" + memory * 2)) == ("multi-memory",)
    assert beyond_core(section(2, b"\1" + memory) + section(5, b"\1\0\1").removeprefix(HEAD)) == ("multi-memory",)
    assert beyond_core(section(5, b"\1\1\1\2")) == ()
    assert beyond_core(section(5, b"\2\1\1\2\0\1")) == ("multi-memory",)


def test_tables_are_read_to_their_end():
    behind = b"\x6f\4\1"  # a table of 64 bits
    for table, names in ((b"\x70\0\x92\0", set()), (b"\x70\1\1\2", set()), (b"\x40\0\x70\0\1\xd2\0\x0b", {"function-references"})):
        assert set(beyond_core(section(4, b"\2" + table + behind))) == names | {"table64"}


@pytest.mark.parametrize(
    "segment",
    [
        b"\0\x41\0\x0b\2\x92\0\x93\0", b"\1\0\2\x92\0\x93\0", b"\2\x92\0\x41\0\x0b\0\2\x92\0\x93\0", b"\3\0\2\x92\0\x93\0",
        b"\4\x41\0\x0b\2\xd2\x92\0\x0b\xd2\0\x0b", b"\5\x70\1\xd2\0\x0b", b"\6\x92\0\x41\0\x0b\x70\1\xd2\0\x0b",
        b"\7\x70\1\xd0\x70\x0b",
    ],
)  # fmt: skip
def test_segments_of_elements_are_read_to_their_end(segment):
    assert beyond_core(section(9, b"\2" + segment + b"\5\x69\0")) == ("exceptions",)
    assert beyond_core(section(9, b"\2\x08" + segment)) == ("a newer proposal",)


def test_the_kind_of_elements_is_a_byte_and_no_type():
    assert beyond_core(section(9, b"\1\1\x69\0")) == ()


def test_segments_of_data_are_read_to_their_end():
    behind = b"\2\1\x41\0\x0b\0"  # into another memory than the first
    for segment in (b"\0\x41\0\x0b\2ab", b"\1\2ab", b"\2\0\x41\0\x0b\2ab"):
        assert beyond_core(section(11, b"\2" + segment + behind)) == ("multi-memory",)
    assert beyond_core(section(11, b"\2\3\x41\0\x0b\2ab" + behind)) == ("a newer proposal",)


def test_sections_of_other_kinds_are_told_by_their_number():
    sections = {0: (), 3: (), 7: (), 8: (), 12: (), 13: ("exceptions",), 14: ("stringref",), 15: ("a newer proposal",)}
    for kind, names in sections.items():
        assert (kind, beyond_core(section(kind, b"\0"))) == (kind, names)


@pytest.mark.parametrize(
    "data",
    [
        section(1, b"\2\x60\0\0"), section(1, b""), section(2, b"\1\1a\2b"), section(10, b"\1\3\0\x0b"), code(b"\0\x41"),
        code(b"\0\x43\0\0\0"),
        code(b"\0\x44" + bytes(7)), code(b"\0\x0e\x05\0\0\0"), code(b"\0\xfd\x0c" + bytes(15)), section(11, b"\1\1\3ab"),
        code(b"\1\1"),
        section(6, b"\1\x7f\0\x41\0"), section(1, b"\x80" * 10 + b"\0"), code(b"\0\x1f\x40\2\2\0"), code(b"\1\1\x64"),
    ],
)  # fmt: skip
def test_what_ends_too_early_is_refused(data):
    with pytest.raises(Refused) as refusal:
        beyond_core(data)
    assert refusal.value.reason is Reason.MALFORMED


def test_a_number_has_ten_bytes_at_most():
    assert beyond_core(section(1, b"\x81" + b"\x80" * 8 + b"\0" + b"\x60\0\0")) == ()
    with pytest.raises(Refused, match="a number of more than 64 bits"):
        beyond_core(section(1, b"\x81" + b"\x80" * 9 + b"\0" + b"\x60\0\0"))
