"""Decides what entries are to say: of new updates, of removals, of configurations. No I/O but random deployment ids."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ota.author.build import Update
from ota.errors import OtaError
from ota.formats.deployment import DEPLOYMENT_LIMIT_BYTES, FRACTION_ALL, Deployment, Entry, checked_config
from ota.formats.manifest import AnyManifest
from ota.formats.reasons import Reason, Refused
from ota.formats.window import Window
from ota.operator.checks import check_devices, check_set, check_window
from ota.operator.edit import Edit, apart, members, renewed
from ota.operator.scope import Scope

__all__ = ["Item", "Order", "Present", "configured", "decide", "phase", "removed", "running"]

SIGNATURES_BYTES = 56 * 1024  # room for 16 signatures of ML-DSA-65


@dataclass(frozen=True)
class Item:
    """An update for an instance."""

    update: Update
    instance: str
    config: Mapping[str, str] = field(default_factory=dict)  # to set
    exact: bool = False  # that is the whole configuration; else what its entry has besides stays


@dataclass(frozen=True)
class Order:
    """How something is to be deployed.

    `fraction_ppm` None, no `boards`, no `window`: as it is when it is deployed already, else all boards, the workspace's window.
    `lifetime_s` is how long boards may begin the update, 0 for until another takes its place, None for: as it is, or 0.
    """

    fraction_ppm: int | None = None
    boards: tuple[str, ...] = ()  # these, too, whatever the fraction
    lifetime_s: int | None = None
    window: Window | None = None
    now: bool = False  # at any time: without a window
    together: bool = False  # the items are a set
    apart: bool = False  # an item may leave the set that it is in
    take_over: bool = False


@dataclass(frozen=True)
class Present:
    """The document that a decision is made on; without entries when there is none."""

    deployment: Deployment
    manifests: Mapping[bytes, AnyManifest] = field(default_factory=dict)  # of its entries, as far as they are known
    aborted: frozenset[bytes] = frozenset()  # deployment ids
    valid: bool = True  # boards take its signature
    window: Window | None = None  # the workspace's

    @property
    def scope(self) -> Scope:
        """Whom it is for."""
        return Scope.of(self.deployment)

    def is_aborted(self, entry: Entry) -> bool:
        """Whether no board begins it any more."""
        return entry.paused and entry.deployment_id in self.aborted


def decide(items: Sequence[Item], order: Order, present: Present, now_s: int) -> Edit:
    """The entries for these updates. What is deployed so already is left as it is; the edit may be empty.

    Raises Refused for what boards would refuse, OtaError for what would narrow or resume a deployment.
    """
    names = [each.instance for each in items]
    if twice := {each for each in names if names.count(each) > 1}:
        raise OtaError(f"two of the modules are for instance {', '.join(sorted(twice))}: publish one of them with --instance")
    if order.together:
        check_set({each.instance: each.update.manifest for each in items})
    sets: dict[str, Entry] = {}
    for unit in [items] if order.together else [[each] for each in items]:
        sets |= _decided(unit, order, present, {**present.deployment.entries, **sets}, now_s)
    manifests = {**present.manifests, **{each.update.digest: each.update.manifest for each in items}}
    return _checked(Edit(sets), present, manifests, now_s)


def removed(names: Sequence[str], order: Order, present: Present, now_s: int) -> Edit:
    """Entries that remove instances. What is to be removed already is left, or wider, longer, or in another window.

    Raises OtaError for a name that a group's document does not have, and for what would narrow or resume a removal.
    """
    entries = present.deployment.entries
    if present.scope.group and (strange := sorted(set(names) - entries.keys())):
        raise OtaError(f"{present.scope} has no instance {', '.join(strange)}: it has {', '.join(sorted(entries)) or 'none'}")
    sets: dict[str, Entry] = {}
    for name in dict.fromkeys(names):
        before = entries.get(name)
        if before is not None and before.absent and not present.is_aborted(before):
            sets |= _again(name, f"the removal of {name}", order, present, now_s)
        else:
            sets[name] = _new(order, present, before.issued_s if before else 0, now_s, manifest_digest=b"")
    return _checked(Edit({**_behind(entries, names, order, present, now_s), **sets}), present, present.manifests, now_s)


def configured(
    name: str,
    config: Mapping[str, str],
    unset: Iterable[str],
    order: Order,
    present: Present,
    now_s: int,
    of_group: Entry | None = None,
) -> Edit:
    """The same update with another configuration, under a deployment of its own. Raises Refused, OtaError.

    Of a set the whole is deployed again: what has not changed is confirmed at once. `of_group`: what a device without an entry of
    its own has from its group.
    """
    entries = present.deployment.entries
    before = of_group if of_group is not None and name not in entries else running(name, present)
    wanted = {key: value for key, value in {**before.config, **config}.items() if key not in set(unset)}
    checked_config(wanted, f"instance {name}")
    if present.is_aborted(before):
        raise OtaError(
            f"the deployment of instance {name} of {present.scope} was aborted: publish an update, or the same one again"
        )
    if before.paused:
        raise OtaError(f"instance {name} of {present.scope} is paused: resume that deployment first")
    leaves = order.apart and before.together
    if wanted == before.config and name in entries and not leaves:
        return _checked(
            Edit(_again(name, f"this configuration of {name}", order, present, now_s)), present, present.manifests, now_s
        )
    if present.scope.group and before.fraction_ppm < FRACTION_ALL and order.fraction_ppm is None and not order.boards:
        raise OtaError(
            f"instance {name} of {present.scope} is deployed to {phase(before)} so far: widen it first, or name --fraction"
        )
    together = () if order.apart or name not in entries else before.together
    id_, window = secrets.token_bytes(16), None if order.now else order.window or before.window
    behind = apart(entries, [name], now_s) if order.apart else {}
    sets = {
        each: _new(
            order,
            present,
            before.issued_s,
            now_s,
            deployment_id=id_,
            manifest_digest=entry.manifest_digest,
            config=wanted if each == name else entry.config,
            window=window,
            together=together,
        )
        for each, entry in ([(name, before)] if not together else [(each, entries[each]) for each in together])
    }
    return _checked(Edit({**behind, **sets}), present, present.manifests, now_s)


def running(name: str, present: Present) -> Entry:
    """The entry of an instance that is not to be removed. Raises OtaError."""
    entries = present.deployment.entries
    if name not in entries or entries[name].absent:
        names = sorted(each for each, entry in entries.items() if not entry.absent)
        raise OtaError(f"the deployment of {present.scope} has no instance {name}: it has {', '.join(names) or 'none'}")
    return entries[name]


def phase(entry: Entry) -> str:
    """Which boards an entry is for, for a person."""
    named = f"{len(entry.boards)} named board{'s' * (len(entry.boards) != 1)}" if entry.boards else ""
    share = f"{entry.fraction_ppm / 10_000:g} % of the boards"
    if entry.fraction_ppm == FRACTION_ALL or not named:
        return share
    return f"{named} and {share}" if entry.fraction_ppm else named


def _decided(unit: Sequence[Item], order: Order, present: Present, entries: Mapping[str, Entry], now_s: int) -> dict[str, Entry]:
    names = sorted(each.instance for each in unit)
    wanted = {each.instance: (each.update.digest, _config(each, present, entries)) for each in unit}
    found = [entries[name] for name in names if name in entries]
    same = len(found) == len(names) and all(
        (entries[name].manifest_digest, dict(entries[name].config)) == wanted[name] and not present.is_aborted(entries[name])
        for name in names
    )
    if same and (len(names) == 1 or all(each.together == tuple(names) for each in found)):
        return _again(names[0], ", ".join(each.update.label for each in unit), order, present, now_s)
    since_s, id_ = max((each.issued_s for each in found), default=0), secrets.token_bytes(16)
    together = tuple(names) if len(names) > 1 else ()
    sets = {
        name: _new(order, present, since_s, now_s, deployment_id=id_, manifest_digest=digest, config=config, together=together)
        for name, (digest, config) in wanted.items()
    }
    return _behind(entries, names, order, present, now_s) | sets


def _again(name: str, label: str, order: Order, present: Present, now_s: int) -> dict[str, Entry]:
    """For what is deployed already: nothing, or the same deployment wider, longer, or in another window."""
    entries = present.deployment.entries
    whole, entry, where = members(entries, name), entries[name], f"--instance {name}"
    command = present.scope.group or f"--device {present.scope.device}"
    if entry.paused:
        raise OtaError(f"the deployment of {label} to {present.scope} is paused: `ota resume {command}` continues it ({where})")
    if order.fraction_ppm is not None and order.fraction_ppm < entry.fraction_ppm:
        raise OtaError(
            f"{label} goes to {entry.fraction_ppm / 10_000:g} % of {present.scope} already, and boards that have it"
            f" keep it: `ota pause {command}` stops it, `ota abort {command} --back` takes it back ({where})"
        )
    wanted = {
        "fraction_ppm": entry.fraction_ppm if order.fraction_ppm is None else order.fraction_ppm,
        "boards": tuple(sorted({*entry.boards, *order.boards})),
        "window": None if order.now else order.window or entry.window,
    }
    expired = 0 < entry.expires_s <= now_s
    as_it_is = all(getattr(entry, key) == value for key, value in wanted.items())
    if as_it_is and order.lifetime_s is None and present.valid and not expired:
        return {}
    return {each: renewed(entries[each], now_s, order.lifetime_s, **wanted) for each in whole}


def _new(order: Order, present: Present, since_s: int, now_s: int, **values: Any) -> Entry:
    """A new deployment, later than what there was."""
    issued_s = max(now_s, since_s + 1)
    share = (0 if order.boards else FRACTION_ALL) if order.fraction_ppm is None else order.fraction_ppm
    defaults: dict[str, Any] = {
        "deployment_id": secrets.token_bytes(16),
        "issued_s": issued_s,
        "expires_s": issued_s + order.lifetime_s if order.lifetime_s else 0,
        "fraction_ppm": share,
        "boards": tuple(sorted(set(order.boards))),
        "window": None if order.now else order.window or present.window,
    }
    return Entry(**(defaults | values))


def _config(item: Item, present: Present, entries: Mapping[str, Entry]) -> dict[str, str]:
    """What the instance's entry has, if it is of the same module, with what is to be set. Raises Refused CONFIG_TOO_LARGE."""
    before = entries.get(item.instance)
    known = present.manifests.get(before.manifest_digest) if before is not None else None
    same_module = known is not None and known.name == item.update.manifest.name
    kept = dict(before.config) if before is not None and same_module and not item.exact else {}
    return checked_config({**kept, **item.config}, f"instance {item.instance}")


def _behind(entries: Mapping[str, Entry], leaving: Sequence[str], order: Order, present: Present, now_s: int) -> dict[str, Entry]:
    """The rest of sets that some members leave. Raises Refused SET_INCOMPLETE unless the order allows that."""
    behind = apart(entries, leaving, now_s)
    if behind and not order.apart:
        raise Refused(
            Reason.SET_INCOMPLETE,
            f"{', '.join(sorted(leaving))} and {', '.join(sorted(behind))} of {present.scope} are a set: change all of them at once"
            " with --together, or give --apart",
        )
    return behind


def _checked(edit: Edit, present: Present, manifests: Mapping[bytes, AnyManifest], now_s: int) -> Edit:
    """What boards would refuse is refused before it is signed."""
    if not edit.instances:
        return edit
    wanted = edit.applied(present.deployment)
    for entry in edit.sets.values():
        check_window(entry.window, entry.expires_s, now_s)
    payload = wanted.to_payload()
    Deployment.from_payload(payload)
    if len(payload) > DEPLOYMENT_LIMIT_BYTES - SIGNATURES_BYTES:
        raise Refused(
            Reason.TOO_LARGE,
            f"the deployment of {present.scope} would have {len(payload)} bytes: it has {len(wanted.entries)} instances",
        )
    check_devices(wanted, manifests, edit.sets)
    return edit
