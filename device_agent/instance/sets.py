"""Sets: instances that change all at once or not at all. No I/O: the members' updates in, the next step out.

All members are staged first. Then they begin one after the other, in the order of their names, but a member that gives up a device
before the one that takes it. Each goes on running when it has passed its trial. When the last has passed, all are confirmed in one
transaction. If one fails, all others go back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from device_agent.instance.states import ON_TRIAL, Phase
from device_agent.instance.updates import Update
from ota.formats.reasons import Reason

__all__ = ["Begin", "Confirm", "Fail", "Step", "Wait", "next_step", "sets_of"]

_CHANGING = (Phase.STARTING, Phase.TRIAL)


@dataclass(frozen=True)
class Wait:
    """Nothing can be done until a member has moved. `why`: for those that are staged."""

    why: str


@dataclass(frozen=True)
class Begin:
    """It is a staged member's turn. `first`: no other has begun; the set's window is judged then, and not again."""

    member: str
    first: bool


@dataclass(frozen=True)
class Fail:
    """The set can't go on, because of one member: the others end. A reason that may not hold later lets all be tried again."""

    members: tuple[str, ...]
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Confirm:
    """All have passed: these are to be confirmed in one transaction. The others run what is wanted already."""

    members: tuple[str, ...]


Step = Wait | Begin | Fail | Confirm


def sets_of(updates: Iterable[Update]) -> set[tuple[bytes, tuple[str, ...]]]:
    """The sets that are under way, each by its deployment and its members."""
    return {(each.deployment, each.together) for each in updates if each.together and not each.ended}


def next_step(deployment: bytes, members: Mapping[str, Update | None], takes: Mapping[str, frozenset[str]]) -> Step:
    """What is to be done for a set: `members` are all of it, None where an instance has no update.

    `takes`: for a member, the others whose devices it is to have; they hold them until it is their turn.
    An update that the journal had when the agent started counts once it was resumed, unless it has ended; one that the board did
    not take, once it was judged again.
    """
    here = {name: each for name, each in sorted(members.items()) if each is not None and _counts(deployment, each)}
    open_ones = [name for name, each in here.items() if not each.ended]
    begun = any(each.phase in (*_CHANGING, *ON_TRIAL) for each in here.values())
    for name, each in here.items():
        if each.ended and each.phase is not Phase.CONFIRMED and not each.retryable:
            return Fail(tuple(open_ones), Reason.SET_FAILED, f"{name}, of the same set, {_what_became_of(each)}")
    missing = [name for name in sorted(members) if name not in here or _is_before(here[name])]
    if missing:
        return _incomplete(missing[0], here.get(missing[0]), [name for name in open_ones if begun and _is_begun(here[name])])
    changing = [name for name, each in here.items() if each.phase in _CHANGING]
    if changing:
        return Wait(f"waits for {changing[0]}, of the same set, which is {here[changing[0]].phase.value}")
    staged = [name for name, each in here.items() if each.phase is Phase.STAGED]
    if staged:
        free = [name for name in staged if not takes.get(name, frozenset()) & set(staged)]
        if free:
            return Begin(free[0], not begun)
        why = f"{' and '.join(staged)}, of one set, take devices from each other: move them in two steps"
        return Fail(tuple(open_ones), Reason.DEVICE_CLAIMED, why)
    return Confirm(tuple(open_ones)) if open_ones else Wait("")


def _incomplete(name: str, update: Update | None, begun: list[str]) -> Step:
    """A member is not staged yet, or not any more."""
    if not begun:
        state = "not offered yet" if update is None else _what_became_of(update) if update.ended else update.phase.value
        return Wait(f"waits for {name}, of the same set: {state}")
    if update is not None and update.ended and update.reason is not None:
        return Fail(tuple(begun), update.reason, f"{name}, of the same set, {_what_became_of(update)}")
    return Fail(tuple(begun), Reason.DEPLOYMENT_STOPPED, f"{name}, of the same set, has begun anew")


def _counts(deployment: bytes, update: Update) -> bool:
    return update.deployment == deployment and (update.number > 0 or (update.ended and not update.never_ran))


def _is_before(update: Update) -> bool:
    return update.phase in (Phase.OFFERED, Phase.FETCHING) or update.retryable


def _is_begun(update: Update) -> bool:
    return update.phase in (*_CHANGING, *ON_TRIAL)


def _what_became_of(update: Update) -> str:
    why = f": {update.reason.value}: {update.detail}" if update.reason is not None else ""
    return f"{update.phase.value}{why}"
