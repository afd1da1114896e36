"""Deployment documents by instance: entries, sets, windows, configurations, documents of one device."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.formats import cbor
from ota.formats import deployment as deployments
from ota.formats.deployment import BOARDS, ENTRIES, FRACTION_ALL, Deployment, Entry, checked_config, release_id
from ota.formats.module import CONFIG_LIMIT_BYTES
from ota.formats.reasons import Reason, Refused
from ota.formats.window import DAY_MIN, DAYS, Window
from tests.support.signing import Signer

SIGNER = Signer()
MANIFEST, OTHER = b"m" * 32, b"o" * 32
WINDOW = Window(frozenset((0, 4)), 120, 90)
ENTRY = SIGNER.entry(MANIFEST)


def refusal(function, *values, **more) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values, **more)
    return caught.value


def read(entries: dict[str, Entry]) -> Deployment:
    document = SIGNER.document(entries)[1]
    return deployments.verify(document, SIGNER.root(), group="lab")


def changed(change) -> bytes:
    """A signed document of which an operator's faulty tool changed the payload."""
    value = cbor.decode(SIGNER.document({"blink": ENTRY, "sense": ENTRY})[0].to_payload(), "test", 1 << 16)
    change(value)
    return cbor.encode(value)


def test_an_entry_with_everything_reads_back():
    full = replace(
        ENTRY, boards=("a", "b"), paused=True, fraction_ppm=5, window=WINDOW, config={"period": "10"}, together=("blink", "sense")
    )
    removal = replace(full, manifest_digest=b"", config={})
    assert read({"blink": full, "sense": removal}).entries == {"blink": full, "sense": removal}
    assert (full.absent, removal.absent) == (False, True)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c-1"]), st.tuples(st.binary(min_size=32, max_size=32), st.booleans()), max_size=3)
)
def test_any_entries_read_back(wanted):
    entries = {name: replace(ENTRY, manifest_digest=b"" if absent else digest) for name, (digest, absent) in wanted.items()}
    payload = Deployment("lab", 1, 5, entries).to_payload()
    assert Deployment.from_payload(payload).entries == entries


def test_a_document_of_a_device_is_not_one_of_its_group_or_of_another_device():
    document = SIGNER.deployment(MANIFEST, device="roof-1")[1]
    assert deployments.verify(document, SIGNER.root(), device="roof-1").scope == "device roof-1"
    for wanted in ({"group": "lab"}, {"device": "roof-2"}, {"group": "roof-1"}):
        assert refusal(deployments.verify, document, SIGNER.root(), **wanted).reason is Reason.GROUP_MISMATCH
    of_group = SIGNER.deployment(MANIFEST, group="roof-1")[1]
    assert refusal(deployments.verify, of_group, SIGNER.root(), device="roof-1").reason is Reason.GROUP_MISMATCH


@pytest.mark.parametrize("whose", [{}, {2: "lab", 3: "roof-1"}])
def test_a_document_for_nobody_or_for_both_is_malformed(whose):
    def change(value):
        del value[2]
        value |= whose

    assert refusal(Deployment.from_payload, changed(change)).reason is Reason.MALFORMED


def test_members_behind_the_last_one_that_is_known_are_refused():
    for change in (lambda value: value.update({7: 0}), lambda value: value[6]["blink"].update({11: 0})):
        assert refusal(Deployment.from_payload, changed(change)).reason is Reason.MEMBER_UNKNOWN


@pytest.mark.parametrize("name", ["", "a/b", "..", "+", "x" * 65, 7])
def test_an_instance_whose_name_is_no_name_is_malformed(name):
    payload = changed(lambda value: value[6].update({name: value[6]["blink"]}))
    assert refusal(Deployment.from_payload, payload).reason is Reason.MALFORMED


def test_more_entries_or_boards_than_the_limit_are_refused():
    assert len(read({f"i{number}": ENTRY for number in range(ENTRIES)}).entries) == ENTRIES
    too_many = Deployment("lab", 1, 5, {f"i{number}": ENTRY for number in range(ENTRIES + 1)}).to_payload()
    assert refusal(Deployment.from_payload, too_many).reason is Reason.MALFORMED
    boards = tuple(f"board-{number:03d}" for number in range(BOARDS + 1))
    assert read({"blink": replace(ENTRY, boards=boards[:-1])}).entries["blink"].boards == boards[:-1]
    assert refusal(read, {"blink": replace(ENTRY, boards=boards)}).reason is Reason.MALFORMED


def test_a_set_with_a_member_that_has_no_entry_is_refused_by_its_name():
    together = ("blink", "ghost")
    error = refusal(read, {"blink": replace(ENTRY, together=together)})
    assert error.reason is Reason.SET_INCOMPLETE
    assert "ghost, of the set of blink, has no entry" in error.detail


@pytest.mark.parametrize(
    "change", [{"deployment_id": bytes(16)}, {"fraction_ppm": 5}, {"paused": True}, {"window": WINDOW}, {"together": ()}]
)
def test_members_of_a_set_that_are_not_deployed_alike_are_refused(change):
    entry = replace(ENTRY, together=("blink", "sense"))
    assert read({"blink": entry, "sense": replace(entry, manifest_digest=OTHER, config={"a": "b"})})
    assert refusal(read, {"blink": entry, "sense": replace(entry, **change)}).reason is Reason.SET_INCOMPLETE


def test_the_agent_as_a_member_of_a_set_is_refused_by_its_name():
    entry = replace(ENTRY, together=("agent", "blink"))
    error = refusal(read, {"agent": entry, "blink": entry})
    assert error.reason is Reason.INSTANCE_RESERVED
    assert "the agent can't be a member of a set" in error.detail


def test_an_entry_that_is_not_in_its_own_set_is_refused():
    entry = replace(ENTRY, together=("a", "b"))
    assert refusal(read, {"a": entry, "b": entry, "c": entry}).reason is Reason.SET_INCOMPLETE


def test_a_configuration_of_a_megabyte_is_refused_by_its_own_reason():
    assert refusal(checked_config, {"a": "x" * (1 << 20)}, "it").reason is Reason.CONFIG_TOO_LARGE
    fitting = {"a": "x" * (CONFIG_LIMIT_BYTES - len(cbor.encode({"a": ""})) - 2)}
    assert read({"blink": replace(ENTRY, config=fitting)}).entries["blink"].config == fitting
    beyond = {"a": fitting["a"] + "x"}
    assert refusal(read, {"blink": replace(ENTRY, config=beyond)}).reason is Reason.CONFIG_TOO_LARGE


@pytest.mark.parametrize("config", [{"a": 1}, {1: "a"}, {"a b": "c"}, ["a"]])
def test_a_configuration_of_anything_but_texts_by_name_is_malformed(config):
    assert refusal(checked_config, config, "it").reason is Reason.MALFORMED


def test_the_same_module_with_another_configuration_is_another_release():
    releases = {release_id(MANIFEST, config) for config in ({}, {"a": "1"}, {"a": "2"}, {"b": "1"})}
    assert len(releases) == 4
    assert release_id(MANIFEST, {}) == MANIFEST
    assert release_id(MANIFEST, {"b": "1", "a": "2"}) == release_id(MANIFEST, {"a": "2", "b": "1"})


@pytest.mark.parametrize("change", [{"days": frozenset()}, {"length_min": 0}])
def test_a_window_that_never_opens_is_refused_by_its_own_reason(change):
    error = refusal(read, {"blink": replace(ENTRY, window=replace(WINDOW, **change))})
    assert error.reason is Reason.WINDOW_NEVER_OPENS


@given(st.frozensets(st.integers(0, 6), min_size=1), st.integers(0, DAY_MIN - 1), st.integers(1, DAY_MIN))
def test_a_window_is_open_for_its_length_on_each_of_its_days(days, start_min, length_min):
    window = Window(days, start_min, length_min)
    week = len(DAYS) * DAY_MIN
    expected = {(day * DAY_MIN + start_min + minute) % week for day in days for minute in range(length_min)}
    assert {at for at in range(week) if window.is_open(at // DAY_MIN, at % DAY_MIN)} == expected


ROOT = replace(SIGNER.root(), issued_s=1000, expires_s=1_000_000)
SLACK = deployments.CLOCK_SLACK_S


@pytest.mark.parametrize(
    ("expires_s", "floor_s", "now_s", "code"),
    [
        (0, 0, 0, None), (0, 0, 999_999, None), (0, 0, 1_000_000, Reason.ROOT_EXPIRED), (0, 1_000_000, 0, Reason.ROOT_EXPIRED),
        (5000, 0, 4999, None), (5000, 0, 5000, Reason.DEPLOYMENT_EXPIRED), (5000, 5000, 0, Reason.DEPLOYMENT_EXPIRED),
        (1, 0, 0, Reason.DEPLOYMENT_EXPIRED), (1000, 0, 0, Reason.DEPLOYMENT_EXPIRED), (1001, 0, 0, None),
        (500_000, 200_000, 200_000 - SLACK, None), (500_000, 200_000, 200_000 - SLACK - 1, Reason.CLOCK_NOT_SET),
        (0, 200_000, 0, None),
    ],
)  # fmt: skip
def test_an_install_may_start_until_something_expires_and_where_the_clock_can_tell(expires_s, floor_s, now_s, code):
    entry = replace(ENTRY, expires_s=expires_s)
    if code is None:
        deployments.may_start(entry, floor_s, ROOT, now_s)
        return
    assert refusal(deployments.may_start, entry, floor_s, ROOT, now_s).reason is code
    assert refusal(deployments.may_start, replace(entry, paused=True), floor_s, ROOT, now_s).reason is Reason.DEPLOYMENT_STOPPED


def test_an_entry_that_says_nothing_more_is_for_all_boards_at_any_time():
    assert Entry(MANIFEST, bytes(16), 5) == Entry(MANIFEST, bytes(16), 5, 0, 1_000_000, (), False, None, {}, ())


def test_named_boards_are_included_beside_the_fraction():
    entry = replace(ENTRY, boards=("a", "b"), fraction_ppm=0)
    assert [entry.includes(name) for name in "abc"] == [True, True, False]
    assert all(replace(entry, fraction_ppm=FRACTION_ALL).includes(name) for name in "abc")
