"""Confinement measures of a worker, and which of them may be missing."""

MEMORY_LIMIT, OWN_USER = "memory-limit", "own-user"
MEASURES = ("no-new-privileges", "seccomp", "landlock", MEMORY_LIMIT, OWN_USER)
"""Everything that a worker should have before guest code runs."""


def lacking(measures: frozenset[str]) -> tuple[str, ...]:
    """The measures that are not in force."""
    return tuple(each for each in MEASURES if each not in measures)


def intolerable(measures: frozenset[str], *, root: bool) -> tuple[str, ...]:
    """The measures without which no module runs where confinement is required.

    An agent that is not root has no other user for its workers, and no privilege that a worker could inherit: there "own-user" is
    only reported.
    """
    return tuple(each for each in lacking(measures) if root or each != OWN_USER)
