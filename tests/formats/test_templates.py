"""Where modules' topics lie on the broker: both ways, and never outside of the template."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ota.formats import topics
from ota.formats.topics import Template, inward, outward

NAMES = {"device": "roof-1", "group": "lab", "board": "generic", "instance": "blink"}
PREFIXES = ("", "devices/roof-1/", "a/b/c/", "x//")
LEVEL = st.text(
    st.sampled_from("ab.-$#+ é\N{GRINNING FACE}") | st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=6
)
LEVELS = st.lists(
    LEVEL | st.sampled_from(["..", ".", "", "$SYS", "ota", "v1", "local", "sys", "#", "+", "devices"]), min_size=1, max_size=6
)
TEXT = LEVELS.map("/".join).filter(lambda text: 0 < len(text) <= topics.TOPIC_CHARACTERS)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("devices/{device}/{topic}", "devices/roof-1/"),
        ("groups/{group}/{topic}", "groups/lab/"),
        ("{board}/{device}-{instance}/{topic}", "generic/roof-1-blink/"),
        ("{topic}", ""),
    ],
)
def test_a_template_names_what_stands_before_the_topics(text, prefix):
    assert Template.parse(text).prefix(NAMES) == prefix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices/{device}", "{topic} must be its last level"),
        ("{topic}/{device}", "{topic} must be its last level"),
        ("a-{topic}", "{topic} must be its last level"),
        ("{topic}/{topic}", "{topic} must be its last level"),
        ("", "{topic} must be its last level"),
        ("x/{user}/{topic}", "there is no placeholder {user}"),
        ("x/{}/{topic}", "there is no placeholder {}"),
        ("x/{device/{topic}", "without + and #"),
        ("x/+/{topic}", "without + and #"),
        ("#/{topic}", "without + and #"),
        ("x\0/{topic}", "without + and #"),
        ("x" * 300 + "/{topic}", "of at most 256 characters"),
        ("$SYS/{topic}", "not for modules"),
        ("$share/{group}/{topic}", "not for modules"),
        ("ota/v1/device/{device}/{topic}", "not for modules"),
        ("ota/{topic}", "not for modules"),
        ("local/{topic}", "not for modules"),
        ("sys/{device}/{topic}", "not for modules"),
    ],
)
def test_a_template_that_would_let_topics_out_is_refused(text, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("+", r"\+")):
        Template.parse(text)


@pytest.mark.parametrize("name", ["a/b", "+", "#", "", "..", "a\0"])
def test_a_name_with_levels_or_wildcards_gets_into_no_topic(name):
    with pytest.raises(ValueError, match="can't be a level"):
        Template.parse("devices/{device}/{topic}").prefix(NAMES | {"device": name})


@given(st.sampled_from(PREFIXES), TEXT)
def test_what_a_module_publishes_stays_below_the_prefix_and_comes_back_as_it_was(prefix, topic):
    assume(topics.is_topic(topic))
    whole = outward(prefix, topic)
    if whole is None:
        assert topics.is_on_board(topic) or not prefix
        return
    assert whole.startswith(prefix)
    assert "+" not in whole
    assert "#" not in whole
    assert not whole.startswith(("$", "ota/", "local/", "sys/"))
    assert inward(prefix, whole) == topic


@given(st.sampled_from(PREFIXES), TEXT, TEXT)
def test_a_filter_brings_from_the_broker_what_it_covers_on_the_board(prefix, filter_, topic):
    assume(topics.is_filter(filter_) and topics.is_topic(topic))
    asked, whole = outward(prefix, filter_), outward(prefix, topic)
    if asked is None or whole is None:
        return
    if topics.covers(filter_, topic):
        assert topics.covers(asked, whole)
    elif topics.covers(asked, whole):  # only below a prefix does a wildcard reach names that begin with $
        assert topic.startswith("$")


@given(st.sampled_from(PREFIXES), TEXT)
def test_whatever_a_broker_sends_becomes_no_topic_of_the_board_itself(prefix, whole):
    topic = inward(prefix, whole)
    if topic is not None:
        assert prefix + topic == whole
        assert not topics.is_on_board(topic)
        assert topics.is_for_modules(whole)


@pytest.mark.parametrize(
    ("prefix", "topic"),
    [
        ("", "$SYS/x"),
        ("", "ota/v1/device/x/report"),
        ("", "ota"),
        ("", "$share/g/x"),
        ("a/", "local/x"),
        ("a/", "sys/x"),
        ("", "local"),
    ],
)
def test_topics_that_are_not_for_the_broker_go_nowhere(prefix, topic):
    assert outward(prefix, topic) is None
    assert inward(prefix, prefix + topic) is None


def test_another_boards_topics_are_not_ours():
    assert inward("devices/roof-1/", "devices/roof-10/cmd") is None
    assert inward("devices/roof-1/", "devices/roof-1/") is None
    assert inward("devices/roof-1/", "devices/roof-1/cmd") == "cmd"
