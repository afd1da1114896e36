"""Names on the broker, and what filters match: against MQTT's rules, written a second time, for every small filter and topic."""

import itertools

import pytest

from ota.formats import topics
from ota.formats.topics import TOPIC_CHARACTERS, Template

DIGEST = bytes(range(32))


def test_every_topic_is_where_brokers_and_boards_expect_it():
    """Part of the wire format: the broker's access rules name these."""
    digits = DIGEST.hex()
    assert topics.client_id("roof-1") == "wamr-ota-roof-1"
    assert [
        topics.root(3), topics.desired("lab"), topics.device_desired("roof-1"), topics.manifest(DIGEST), topics.blob_index(DIGEST),
        topics.blob_chunk(DIGEST, 0), topics.group_keys("roof-1"), topics.report("+"), topics.instance_report("roof-1", "blink"),
        topics.instance_reports("+"), topics.marker("roof-1"), topics.log("roof-1"), topics.telemetry("roof-1"),
        topics.enrolment_request("+"), topics.enrolment_answer("a"), topics.renewal_request("+"), topics.renewal_answer("roof-1"),
        topics.online("roof-1"), topics.online_in(""), topics.online_in("0f"), topics.online_in("0ff"),
    ] == [
        "ota/v1/root/3", "ota/v1/group/lab/desired", "ota/v1/device/roof-1/desired", f"ota/v1/manifest/{digits}",
        f"ota/v1/blob/{digits}/index", f"ota/v1/blob/{digits}/0", "ota/v1/device/roof-1/keys", "ota/v1/device/+/report",
        "ota/v1/device/roof-1/instance/blink/report", "ota/v1/device/+/instance/+/+", "ota/v1/device/roof-1/marker",
        "ota/v1/device/roof-1/log", "ota/v1/device/roof-1/telemetry", "ota/v1/enrol/+/request", "ota/v1/enrol/a/answer",
        "ota/v1/device/+/renewal/request", "ota/v1/device/roof-1/renewal/answer",
        f"ota/v1/online/{'/'.join(topics.bucket('roof-1'))}/roof-1", "ota/v1/online/#", "ota/v1/online/0/f/#",
        "ota/v1/online/0/f/f/#",
    ]  # fmt: skip
    assert len(topics.bucket("roof-1")) == 3


NAMED = [
    topics.desired, topics.device_desired, topics.group_keys, topics.report, topics.instance_reports, topics.online, topics.marker,
    topics.log, topics.telemetry, topics.enrolment_request, topics.enrolment_answer, topics.renewal_request, topics.renewal_answer,
    lambda name: topics.instance_report(name, "blink"), lambda name: topics.instance_report("roof-1", name),
]  # fmt: skip


@pytest.mark.parametrize("topic", NAMED)
@pytest.mark.parametrize("name", ["a/b", "#", "", ".x", "++", "a b"])
def test_a_name_with_levels_or_wildcards_gets_into_no_topic_of_ours(topic, name):
    with pytest.raises(ValueError, match="can't be a level of a topic"):
        topic(name)


@pytest.mark.parametrize(
    ("value", "is_filter", "is_topic"),
    [
        ("a", True, True),
        ("/", True, True),
        ("x" * TOPIC_CHARACTERS, True, True),
        ("x" * (TOPIC_CHARACTERS + 1), False, False),
        ("", False, False),
        ("#", True, False),
        ("a/#", True, False),
        ("#/a", False, False),
        ("a/b#", False, False),
        ("##", False, False),
        ("+", True, False),
        ("a/+/b", True, False),
        ("a/+b", False, False),
        ("a\0b", False, False),
    ],
)
def test_what_is_a_filter_and_what_a_topic(value, is_filter, is_topic):
    assert topics.is_filter(value) is is_filter
    assert topics.is_topic(value) is is_topic


def matches(filter_: list[str], topic: list[str]) -> bool:
    """MQTT 5, section 4.7, level by level."""
    if topic[0].startswith("$") and filter_[0] in ("#", "+"):
        return False
    if filter_[0] == "#":
        return True
    if filter_[0] not in ("+", topic[0]):
        return False
    return _rest_matches(filter_[1:], topic[1:])


def _rest_matches(filter_: list[str], topic: list[str]) -> bool:
    if not filter_ or not topic:
        return filter_ in ([], ["#"]) and not topic
    return filter_[0] == "#" or (filter_[0] in ("+", topic[0]) and _rest_matches(filter_[1:], topic[1:]))


def every(levels: tuple[str, ...], depth: int) -> list[list[str]]:
    return [list(each) for count in range(1, depth + 1) for each in itertools.product(levels, repeat=count)]


TOPICS = every(("a", "b", "other", "", "$x"), 3)
FILTERS = every(("a", "b", "+", "", "$x"), 2)
FILTERS += [["#"], *([*each, "#"] for each in FILTERS)]
MATCHED = {"/".join(each): frozenset("/".join(topic) for topic in TOPICS if matches(each, topic)) for each in FILTERS}


def test_a_filter_covers_another_when_it_matches_all_that_the_other_does():
    """Where the wider one has + and the other #, it is not said to cover it: that is never wrong."""
    for wide, narrow in itertools.product(MATCHED, repeat=2):
        covered = topics.covers(wide, narrow)
        if covered:
            assert MATCHED[narrow] <= MATCHED[wide], (wide, narrow)
        elif MATCHED[narrow]:
            assert not MATCHED[narrow] <= MATCHED[wide] or ("+" in wide and "#" in narrow), (wide, narrow)


def test_filters_meet_when_there_is_a_topic_that_both_match():
    for one, other in itertools.product(MATCHED, repeat=2):
        assert topics.meet(one, other) is bool(MATCHED[one] & MATCHED[other]), (one, other)


@pytest.mark.parametrize(
    ("topic", "on_board", "for_modules"),
    [("local/a", True, True), ("sys", True, True), ("locals", False, True), ("$SYS/a", False, False), ("ota/x", False, False),
     ("ota", False, False), ("otas", False, True), ("a/ota", False, True)],
)  # fmt: skip
def test_what_no_broker_sees_and_what_no_module_says_there(topic, on_board, for_modules):
    assert topics.is_on_board(topic) is on_board
    assert topics.is_for_modules(topic) is for_modules


def test_the_answers_of_brokers_that_take_fewer_topics_at_once_are_known():
    """MQTT 5, section 2.4: unspecified, malformed, protocol error, implementation specific, packet too large, quota exceeded."""
    assert {0x80, 0x81, 0x82, 0x83, 0x95, 0x97} == topics.TOO_MANY_TOPICS
    assert (topics.TOPICS_A_PACKET, TOPIC_CHARACTERS) == (32, 256)
    assert (topics.ONLINE, topics.OFFLINE) == (b"1", b"0")


def test_a_template_has_at_most_256_characters():
    text = "t" * (256 - len("/{topic}")) + "/{topic}"
    assert Template.parse(text).prefix({}) == text.removesuffix("{topic}")
    with pytest.raises(ValueError, match="a topic of at most 256 characters without"):
        Template.parse("t" + text)
