"""What an instance says of itself at a moment, and what of the disk it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from device_agent.instance.runner import Runner
from ota.formats.deployment import config_digest
from ota.formats.report import Attempt, Running

__all__ = ["Needs", "Snapshot", "attempt_of"]


@dataclass(frozen=True)
class Snapshot:
    """For the report."""

    name: str
    running: Running = field(default_factory=Running)
    attempt: Attempt = field(default_factory=Attempt)
    counters: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What may not be deleted."""

    manifests: frozenset[bytes]  # digests of envelopes
    releases: frozenset[tuple[str, bytes]]  # under which keys and state are kept, by instance
    blobs: frozenset[bytes]


def attempt_of(runner: Runner, events: int) -> Attempt:
    """The update under way, or the last one. `events`: that were handled on trial."""
    update = runner.update
    why = runner.waits_for or update
    done_chunks, chunks = runner.fetcher.progress(update.manifest)
    return Attempt(
        state=update.phase.value,
        deployment=update.deployment,
        manifest=update.manifest,
        config=config_digest(update.config),
        reason=why.reason.value if why.reason else "",
        detail=why.detail,
        done_chunks=done_chunks,
        chunks=chunks,
        events=events,
    )
