"""What the board's owner lets updates do: the rules of `[updates]` in agent.toml. No I/O.

The rules go by the kind that release keys signed. Neither who publishes nor a window of the deployment overrides them.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from device_agent.instance.gate import Now, Waits
from ota.formats.provenance import Kind
from ota.formats.reasons import Reason, Refused

__all__ = ["AT_ONCE", "NO_RULES", "Owner", "Rule"]

_POSTPONE = re.compile(r"postpone ([1-9][0-9]{0,4})([mhd])")
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400}
POSTPONE_LIMIT_S = 365 * 86_400


@dataclass(frozen=True)
class Rule:
    """What becomes of updates of a kind."""

    postpone_s: int = 0  # from when it was ready and the time was known
    refused: bool = False

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """From "install", "refuse" or "postpone 7d". Raises ValueError saying what is expected."""
        if text in ("install", "refuse"):
            return cls(refused=text == "refuse")
        found = _POSTPONE.fullmatch(text)
        seconds = int(found[1]) * _UNITS_S[found[2]] if found is not None else 0
        if not 0 < seconds <= POSTPONE_LIMIT_S:
            raise ValueError('"install", "refuse", or "postpone" with a time of up to 365d, such as "postpone 7d"')
        return cls(seconds)


AT_ONCE = Rule()


@dataclass(frozen=True)
class Owner:
    """The rules for all kinds."""

    functional: Rule = AT_ONCE
    security: Rule = AT_ONCE

    def rule(self, kind: Kind) -> Rule:
        """What is not said to mend a weakness is functional; a kind that this version does not know may be either."""
        if kind is Kind.UNKNOWN:
            both = (self.functional, self.security)
            return Rule(max(each.postpone_s for each in both), any(each.refused for each in both))
        return self.security if kind is Kind.SECURITY else self.functional

    def check(self, kind: Kind) -> None:
        """Raises Refused OWNER_REFUSED."""
        if self.rule(kind).refused:
            raise Refused(
                Reason.OWNER_REFUSED, f"the owner of this board takes no {_named(kind)} updates ([updates] in agent.toml)"
            )

    def why_wait(self, kind: Kind, ready_s: int | None, now: Now) -> Waits | None:
        """What an update waits for that was ready at a time, in seconds since 1970; None for one of which that is not known."""
        rule = self.rule(kind)
        if rule.refused:
            return Waits(Reason.OWNER_REFUSED, f"waits: the owner of this board takes no {_named(kind)} updates")
        if not rule.postpone_s:
            return None
        if ready_s is None or not now.trusted:
            return Waits(Reason.UPDATE_POSTPONED, "waits for the time to be known, to tell how long its owner postpones it")
        until_s = ready_s + rule.postpone_s
        if now.utc.timestamp() >= until_s:
            return None
        until = datetime.fromtimestamp(until_s, now.local.tzinfo)
        return Waits(Reason.UPDATE_POSTPONED, f"waits until {until:%Y-%m-%d %H:%M}: the owner postpones {_named(kind)} updates")


NO_RULES = Owner()


def _named(kind: Kind) -> str:
    return "security" if kind is Kind.SECURITY else "functional"
