"""What boards would refuse is refused before anything is signed or sent, with the reason that boards would give."""

import time
from collections.abc import Iterable, Mapping

from ota.formats.classes import ANY_BOARD, vendor_id
from ota.formats.deployment import AGENT, Deployment, Entry
from ota.formats.manifest import AnyManifest, Manifest, board_of
from ota.formats.reasons import Reason, Refused
from ota.formats.window import Window

__all__ = ["check_devices", "check_instance", "check_module", "check_set", "check_vendor", "check_window"]

ZONES_MIN = 14 * 60  # local time is at most so far from UTC


def check_instance(instance: str) -> None:
    """Raises Refused INSTANCE_RESERVED for the name of the agent."""
    if instance == AGENT:
        raise Refused(Reason.INSTANCE_RESERVED, f"instance {AGENT!r} is the agent itself: choose another name with --instance")


def check_module(instance: str, what: str) -> None:
    """Raises Refused INSTANCE_RESERVED where it is the agent, and no module. `what` would be done."""
    if instance == AGENT:
        raise Refused(Reason.INSTANCE_RESERVED, f"instance {AGENT!r} is the agent itself, which can't be {what}")


def check_vendor(manifest: AnyManifest, vendor: str) -> None:
    """Raises Refused VENDOR_MISMATCH for a module of another vendor than the workspace's."""
    if manifest.vendor != vendor_id(vendor):
        raise Refused(
            Reason.VENDOR_MISMATCH,
            f"{manifest.name} {manifest.version} is not for vendor {vendor}: boards of this workspace refuse it",
        )


def check_set(manifests: Mapping[str, AnyManifest]) -> None:
    """Raises Refused SET_INCOMPLETE for a set of one, CLASS_MISMATCH for members that no board takes together. By instance."""
    if len(manifests) < 2:
        raise Refused(Reason.SET_INCOMPLETE, "a set has two members at least: name the other modules")
    classes: dict[str, str] = {}
    for name, manifest in manifests.items():
        if (board := board_of(manifest)) != ANY_BOARD:
            classes.setdefault(board, name)
    if len(classes) > 1:
        words = ", ".join(f"{name} for {board or 'an unknown class'}" for board, name in classes.items())
        raise Refused(Reason.CLASS_MISMATCH, f"no board takes the whole set: its members are for different classes ({words})")


def check_devices(deployment: Deployment, manifests: Mapping[bytes, AnyManifest], changed: Iterable[str]) -> None:
    """Raises Refused DEVICE_CLAIMED when a changed instance and another one claim the same GPIO line or serial port.

    `manifests` are those that are known, by digest. Instances that no board can both have don't count.
    """
    claims: dict[str, list[str]] = {}
    for name, entry in deployment.entries.items():
        manifest = manifests.get(entry.manifest_digest)
        for device in dict.fromkeys(manifest.module.capabilities.exclusive) if isinstance(manifest, Manifest) else ():
            claims.setdefault(device, []).append(name)
    for device, names in claims.items():
        for name in set(changed) & set(names):
            for other in names:
                if other != name and _may_meet(deployment.entries[name], deployment.entries[other]):
                    raise Refused(
                        Reason.DEVICE_CLAIMED, f"instances {name} and {other} both claim {device}, which only one can have"
                    )


def _may_meet(one: Entry, other: Entry) -> bool:
    """Whether a board may have both entries: not when both are for named boards, and for different ones."""
    return bool(one.fraction_ppm or other.fraction_ppm or set(one.boards) & set(other.boards))


def check_window(window: Window | None, expires_s: int, now_s: int) -> None:
    """Raises Refused WINDOW_NEVER_OPENS for one that does not open before its entry expires. Times are seconds since 1970."""
    if window is None or not expires_s:
        return
    zones_min = 0 if window.utc else ZONES_MIN
    start = time.gmtime(now_s - zones_min * 60)
    minutes = max(0, (expires_s - now_s) // 60) + 2 * zones_min
    if not window.opens_within(minutes, start.tm_wday, start.tm_hour * 60 + start.tm_min):
        raise Refused(
            Reason.WINDOW_NEVER_OPENS, f"window {window} does not open in the {(expires_s - now_s) / 86_400:.1g} days of --days"
        )
