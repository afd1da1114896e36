"""Documents that several operators publish at the same moment, and what becomes of them. No broker."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ota.formats.deployment import Deployment, Entry
from ota.operator.edit import Edit, apart, changed, join, renewed

NOW_S = 1_800_000_000
NAMES = ("a", "b", "c", "d")


def entry(number: int, issued_s: int = NOW_S, **changes) -> Entry:
    return replace(Entry(bytes([number]) * 32, bytes([number]) * 16, issued_s), **changes)


def document(epoch: int = 1, **entries: Entry) -> Deployment:
    return Deployment(group="lab", epoch=epoch, issued_s=NOW_S, entries=entries)


def published(base: Deployment, **sets: Entry) -> Deployment:
    return replace(Edit(sets).applied(base), epoch=base.epoch + 1)


BASE = document(a=entry(1), b=entry(2))


def test_changes_of_different_instances_are_both_kept():
    one, other = published(BASE, a=entry(3, NOW_S + 1)), published(BASE, c=entry(4, NOW_S + 1))
    assert join(BASE, [one, other]).entries == {"a": entry(3, NOW_S + 1), "b": entry(2), "c": entry(4, NOW_S + 1)}


def test_of_one_instance_the_entry_that_was_changed_last_stands_and_is_the_same_for_everybody():
    one, other = published(BASE, a=entry(3, NOW_S + 1)), published(BASE, a=entry(4, NOW_S + 2))
    assert join(BASE, [one, other]).entries["a"] == entry(4, NOW_S + 2)
    same = published(BASE, a=entry(5, NOW_S + 2))
    assert join(BASE, [other, same]) == join(BASE, [same, other])


def test_an_instance_that_was_withdrawn_stays_so_unless_somebody_changed_it():
    without = replace(Edit(drops=frozenset("a")).applied(BASE), epoch=2)
    assert "a" not in join(BASE, [without, published(BASE, b=entry(3, NOW_S + 1))]).entries
    assert join(BASE, [without, published(BASE, a=entry(3, NOW_S + 1))]).entries["a"] == entry(3, NOW_S + 1)


def test_a_document_that_was_made_before_the_base_withdraws_nothing():
    """Another operator had not seen the newest document yet."""
    older = document(epoch=0, b=entry(2))
    assert "a" in join(BASE, [published(older, c=entry(3, NOW_S + 1))]).entries


def test_a_set_is_taken_or_left_as_a_whole():
    both = {name: entry(7, NOW_S + 1, together=("a", "b")) for name in ("a", "b")}
    assert join(BASE, [published(BASE, **both)]).entries == both
    beaten = join(BASE, [published(BASE, **both), published(BASE, a=entry(8, NOW_S + 2))]).entries
    assert beaten == {"a": entry(8, NOW_S + 2), "b": entry(2)}


def test_members_that_others_leave_go_on_by_themselves():
    both = {name: entry(7, together=("a", "b")) for name in ("a", "b")}
    behind = apart(both, ["a"], NOW_S)
    assert behind == {"b": entry(7, NOW_S + 1)}
    made = published(document(**both), a=entry(8, NOW_S + 1), **behind)
    Deployment.from_payload(made.to_payload())


def test_a_change_counts_as_later_whatever_the_clock_says():
    assert changed(entry(1), NOW_S - 1000).issued_s == NOW_S + 1
    assert renewed(entry(1, expires_s=NOW_S + 60), NOW_S - 1000).expires_s == NOW_S + 61
    assert renewed(entry(1, expires_s=NOW_S + 60), NOW_S + 500).expires_s == NOW_S + 560


@st.composite
def edits(draw) -> Edit:
    """Singles and sets on top of BASE, as operators make them."""
    names = draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))
    number, issued_s = draw(st.integers(10, 250)), NOW_S + draw(st.integers(1, 3))
    together = tuple(sorted(names)) if len(names) > 1 and draw(st.booleans()) else ()
    return Edit({name: entry(number, issued_s, together=together) for name in names})


@given(st.lists(edits(), min_size=1, max_size=4), st.randoms())
def test_everybody_comes_to_the_same_valid_document_whatever_they_saw_first(changes, random):
    documents = [replace(each.applied(BASE), epoch=2) for each in changes]
    joined = join(BASE, documents)
    Deployment.from_payload(joined.to_payload())
    random.shuffle(documents)
    assert join(BASE, documents) == joined
    assert join(BASE, [*documents, replace(joined, epoch=3)]) == joined
    newest = {}
    for each in changes:
        for name, one in each.sets.items():
            newest.setdefault(name, set()).add(one.issued_s)
    alone = {name for each in changes if len(each.sets) == 1 for name in each.sets if len(newest[name]) == 1}
    for name in alone:  # nobody else changed it at another moment: one of the entries of that moment stands
        assert joined.entries[name] in [each.sets[name] for each in changes if name in each.sets]


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
def test_nobodys_change_is_lost_when_all_change_different_instances(names):
    sets = {name: entry(20 + number, NOW_S + 1 + number) for number, name in enumerate(names)}
    documents = [replace(Edit({name: one}).applied(BASE), epoch=2) for name, one in sets.items()]
    assert join(BASE, documents).entries == {**BASE.entries, **sets}
