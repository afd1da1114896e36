"""What an author says of a module: each member at the edge of what is read."""

from dataclasses import replace

import pytest

from ota.formats import cbor, module
from ota.formats.capabilities import Capabilities
from ota.formats.module import Limits, ModuleDescription, checked_arguments, checked_environment
from ota.formats.provenance import Kind
from ota.formats.reasons import Reason, Refused

PLAIN = ModuleDescription("blink", "1.0.0", Capabilities({}))


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def read(member: int, content: object) -> ModuleDescription:
    value = cbor.decode(PLAIN.to_bytes(), "test", 1 << 14)
    return ModuleDescription.from_bytes(cbor.encode(value | {member: content}))


# -- arguments and environment


def test_arguments_have_at_most_64_texts_and_4096_bytes_with_their_ends():
    for good in ([], ["a"] * 64, ["é" * 1000, "x" * 2094]):  # 2,000 bytes, 2,094, and two ends
        assert checked_arguments(good, "x") == tuple(good)
    for bad in (["a"] * 65, ("a",), "a", {}, [7], ["a\0"]):
        error = refusal(checked_arguments, bad, "x")
        assert (error.reason, error.detail) == (
            Reason.MALFORMED,
            "x: arguments are not a list of at most 64 texts without zeros",
        )
    error = refusal(checked_arguments, ["é" * 1000, "x" * 2095], "x")
    assert (error.reason, error.detail) == (Reason.MALFORMED, "x: arguments are more than 4096 bytes")


def test_the_environment_has_at_most_64_variables_and_4096_bytes_with_signs_and_ends():
    full = {"é" * 500: "é" * 500, "n": "x" * 2091}  # 2,000 bytes, 2,092, and twice = and an end
    for good in ({}, {f"n{number}": "" for number in range(64)}, full, {"n": "a=b"}):
        assert checked_environment(good, "x") == good
    for bad in ([], "a", {f"n{number}": "" for number in range(65)}):
        error = refusal(checked_environment, bad, "x")
        assert (error.reason, error.detail) == (
            Reason.MALFORMED,
            "x: the environment is not a map of at most 64 variables",
        )
    for wrong in ({"": "a"}, {"a=b": ""}, {7: "a"}, {"a": 7}, {"a\0": ""}, {"a": "\0"}):
        error = refusal(checked_environment, wrong, "x")
        assert (error.reason, error.detail) == (
            Reason.MALFORMED,
            "x: a variable of the environment is not text without zeros, or its name has a =",
        )
    error = refusal(checked_environment, full | {"n": "x" * 2092}, "x")
    assert (error.reason, error.detail) == (Reason.MALFORMED, "x: the environment is more than 4096 bytes")


# -- limits


@pytest.mark.parametrize(
    ("name", "low", "high", "default"),
    [
        ("memory_pages", 1, 65_536, 32),
        ("deadline_ms", 1, 600_000, 1000),
        ("tick_ms", 0, 86_400_000, 0),
        ("stack_bytes", 4096, 16_777_216, 65_536),
        ("fuel", 0, 2_147_483_647, 0),
        ("messages_per_s", 0, 1_000_000, 1000),
        ("log_lines_per_s", 0, 100_000, 100),
        ("trial_events", 0, 1_000_000, 0),
    ],
)
def test_each_limit_is_read_from_its_lowest_to_its_highest(name, low, high, default):
    """Part of the wire format: a description leaves out what is the default."""
    for number in (low, high):
        assert getattr(Limits.parse({name: number}, "x"), name) == number
    for number in (low - 1, high + 1, True, "1"):
        assert refusal(Limits.parse, {name: number}, "x").reason is Reason.MALFORMED
    assert getattr(Limits.parse({}, "x"), name) == default
    assert Limits().to_numbers() == {}


def test_limits_stand_in_manifests_by_number_and_in_old_ones_by_name():
    some = Limits(memory_pages=4, trial_events=3)
    assert some.to_numbers() == {1: 4, 8: 3}
    assert Limits.from_numbers({1: 4, 8: 3}, "x") == some
    assert Limits.from_numbers({"memory_pages": 4, "trial_events": 3}, "x") == some
    assert Limits.from_numbers({}, "x") == Limits()
    assert refusal(Limits.from_numbers, [], "x").reason is Reason.MALFORMED
    assert refusal(Limits.from_numbers, {9: 1}, "x").reason is Reason.MEMBER_UNKNOWN
    assert some.to_value() == {
        "memory_pages": 4, "deadline_ms": 1000, "tick_ms": 0, "stack_bytes": 65_536, "fuel": 0, "messages_per_s": 1000,
        "log_lines_per_s": 100, "trial_events": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("begins", "limit"), [(1, 32), (16, 32), (17, 33), (65_520, 65_536), (65_536, 65_536)])
def test_a_module_gets_16_pages_to_grow_by_or_the_default(begins, limit):
    assert module.pages_with_room(begins) == limit
    told = module.about_memory("blink", 40, Limits(memory_pages=32))
    assert told.startswith("blink begins with 40 pages of memory, its limit is 32: raise memory_pages")


# -- descriptions


@pytest.mark.parametrize(
    ("member", "good", "bad"),
    [
        (1, ["n" * 64], ["n" * 65, "a/b", ""]),
        (2, ["1" * 64], ["1" * 65, "a b"]),
        (3, [{}], [[]]),
        (4, [{}], [[]]),
        (5, [0, 1], [-1, True]),
        (6, [b"", bytes(4096)], [bytes(4097), "text"]),
        (7, [True, False], [1, 0]),
        (8, [[], ["a"] * 64], [["a"] * 65, ["\0"], {}]),
        (9, [{}, {"A": "b"}], [{"": "b"}, []]),
        (64, ["roof"], ["", "a/b"]),
        (65, [1, 2, 3], [-1, "1"]),
    ],
)
def test_each_member_of_a_description_is_read_up_to_its_limit(member, good, bad):
    for content in good:
        assert read(member, content)
    for content in bad:
        assert refusal(read, member, content).reason is Reason.MALFORMED


def test_members_that_are_not_known_are_refused_by_number_and_from_64_on_ignored():
    for member in (10, 63):
        assert refusal(read, member, 1).reason is Reason.MEMBER_UNKNOWN
    assert read(66, 1) == PLAIN
    assert refusal(ModuleDescription.from_bytes, bytes(16 * 1024 + 1)).reason is Reason.TOO_LARGE
    assert refusal(ModuleDescription.from_bytes, bytes(16 * 1024)).reason is Reason.MALFORMED


def test_the_numbers_of_a_description_are_those_of_manifests():
    whole = ModuleDescription(
        "blink", "1.0.0", Capabilities.parse({"logging": {}}, "x"), Limits(memory_pages=4), 3, b"c", True, ("a",), {"A": "b"},
        "roof", Kind.SECURITY,
    )  # fmt: skip
    value = cbor.decode(whole.to_bytes(), "test", 1 << 14)
    assert {key: each for key, each in value.items() if key != 3} == {
        1: "blink", 2: "1.0.0", 4: {1: 4}, 5: 3, 6: b"c", 7: True, 8: ["a"], 9: {"A": "b"}, 64: "roof", 65: 2,
    }  # fmt: skip
    assert ModuleDescription.from_bytes(whole.to_bytes()) == whole
    assert cbor.decode(PLAIN.to_bytes(), "test", 1 << 14) == {1: "blink", 2: "1.0.0"}


@pytest.mark.parametrize(
    ("capabilities", "repeatable"),
    [
        ({}, True),
        ({"messaging": {"publish": ["a"]}, "keyvalue": {"quota_bytes": 1}}, True),
        ({"gpio": {"inputs": ["gpiochip0:1"]}}, True),
        ({"gpio": {"outputs": ["gpiochip0:1"]}}, False),
        ({"serial": {"ports": ["/dev/ttyS0:9600"]}}, False),
        ({"wasi": {"read": ["/a"]}}, True),
        ({"wasi": {"write": ["/a"], "quota_bytes": 1}}, False),
    ],
)
def test_an_event_is_not_repeated_where_what_it_did_can_t_be_dropped(capabilities, repeatable):
    found = replace(PLAIN, capabilities=Capabilities.parse(capabilities, "x"))
    assert found.repeatable is repeatable
    assert replace(found, idempotent=True).repeatable
