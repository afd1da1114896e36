"""How a worker is confined, as it tells the agent."""

import os

OWN_USER = "own-user"
MEASURES = ("no-new-privileges", "seccomp", "landlock", OWN_USER)
"""Everything that a worker should have; a user of its own only where the agent is root."""


def lacking(measures: frozenset[str]) -> tuple[str, ...]:
    """The measures that a worker should have and has not."""
    wanted = MEASURES if os.geteuid() == 0 else MEASURES[:-1]
    return tuple(each for each in wanted if each not in measures)
