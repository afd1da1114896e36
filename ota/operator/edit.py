"""Changes of a deployment document, and how documents that several operators published at the same moment are joined. No I/O.

Operators that publish at the same moment overwrite each other's document. Each of them sees the others' documents and joins them
with its own: of each instance, or set of instances, the entry that was changed last stands. All of them come to the same result,
in whatever order they saw the documents. Nobody's change of another instance is lost, and who lost an instance is told.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ota.formats import cbor
from ota.formats.deployment import Deployment, Entry
from ota.operator.scope import Scope

__all__ = ["Edit", "apart", "changed", "empty", "join", "members", "overridden", "renewed"]


@dataclass(frozen=True)
class Edit:
    """What one command changes: entries that it sets, and instances whose entries it takes out of the document."""

    sets: Mapping[str, Entry] = field(default_factory=dict)
    drops: frozenset[str] = frozenset()

    @property
    def instances(self) -> set[str]:
        """All that it changes."""
        return {*self.sets, *self.drops}

    def applied(self, base: Deployment) -> Deployment:
        """The document after it; its epoch is not set yet."""
        entries = {name: entry for name, entry in base.entries.items() if name not in self.drops} | dict(self.sets)
        return _document(base, (base,), entries)


def empty(scope: Scope) -> Deployment:
    """The document of a group or device that has none."""
    return Deployment(group=scope.group, device=scope.device, epoch=0, issued_s=0, entries={})


def members(entries: Mapping[str, Entry], instance: str) -> tuple[str, ...]:
    """The instances that are changed together with this one: its set, or itself alone."""
    return entries[instance].together or (instance,)


def changed(entry: Entry, now_s: int, **changes: Any) -> Entry:
    """An entry with changes. It counts as later than it was, whatever the clock says."""
    return replace(entry, issued_s=max(now_s, entry.issued_s + 1), **changes)


def renewed(entry: Entry, now_s: int, lifetime_s: int | None = None, **changes: Any) -> Entry:
    """An entry issued again, with changes; valid as long as it was, from now on, unless a lifetime is given."""
    if lifetime_s is None:
        lifetime_s = entry.expires_s - entry.issued_s if entry.expires_s else 0
    again = changed(entry, now_s, **changes)
    return replace(again, expires_s=again.issued_s + lifetime_s if lifetime_s else 0)


def apart(entries: Mapping[str, Entry], leaving: Iterable[str], now_s: int) -> dict[str, Entry]:
    """The members that stay behind when some instances leave their sets: each is on its own from now on."""
    gone = set(leaving)
    behind = {name for each in gone & entries.keys() for name in entries[each].together} - gone
    return {name: changed(entries[name], now_s, together=()) for name in behind}


def overridden(group: Mapping[str, Entry], own: Collection[str]) -> list[tuple[str, ...]]:
    """The sets of a group of which a device has some members, and not all, for itself: it holds them back."""
    sets = sorted({each.together for each in group.values() if each.together})
    return [each for each in sets if not set(own).isdisjoint(each) and not set(own).issuperset(each)]


def join(base: Deployment, documents: Sequence[Deployment]) -> Deployment:
    """What all of these documents say, where each was made from `base` or from one of the others. Its epoch is not set yet.

    An entry of `base` that a document leaves out is taken out, unless another one changed it.
    """
    aware = [each for each in documents if each.epoch > base.epoch]  # the others may not have known all of `base`
    withdrawn = {name for each in aware for name in base.entries if name not in each.entries}
    units = {_rank(unit): unit for each in (base, *documents) for unit in _units(each.entries)}
    entries: dict[str, Entry] = {}
    for _, unit in sorted(units.items(), reverse=True, key=lambda each: each[0]):
        taken = not entries.keys().isdisjoint(unit)
        out = any(name in withdrawn and base.entries[name] == entry for name, entry in unit.items())
        if not taken and not out:
            entries |= unit
    for name, entry in base.entries.items():
        if name not in entries and name not in withdrawn:  # the rest of its set has changed
            entries[name] = replace(entry, together=())
    return _document(base, (base, *documents), entries)


def _document(base: Deployment, documents: Sequence[Deployment], entries: Mapping[str, Entry]) -> Deployment:
    """The time is that of the newest part, so that everybody who joins the same documents makes the same one."""
    issued_s = max([each.issued_s for each in documents] + [each.issued_s for each in entries.values()])
    return replace(base, epoch=0, issued_s=issued_s, entries=dict(entries))


def _units(entries: Mapping[str, Entry]) -> Iterator[dict[str, Entry]]:
    """Entries as they are changed: a set at once, others alone."""
    for name, entry in entries.items():
        if not entry.together or name == min(entry.together):
            yield {member: entries[member] for member in members(entries, name)}


def _rank(unit: Mapping[str, Entry]) -> tuple[int, bytes]:
    """The one that was changed last is the highest; of the same second it is the same one for everybody."""
    encoded = cbor.encode({name: entry.to_value() for name, entry in unit.items()})
    return max(entry.issued_s for entry in unit.values()), encoded
