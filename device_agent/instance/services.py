"""What all instances of a board share, what the board's policy says of each, and what an instance tells the node that it is in."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from device_agent.channel import frames
from device_agent.channel.workers import ModuleSpec, Worker, WorkerFailed
from device_agent.instance.kept import Kept
from device_agent.instance.owner import NO_RULES, Owner
from device_agent.storage.store import Store
from ota.formats.capabilities import Capabilities
from ota.formats.manifest import AnyManifest, AnyVerified, AotImage, VerifiedManifest

OnWriter = Callable[..., Awaitable[Any]]
Died = Callable[[Worker, WorkerFailed], None]


@dataclass(frozen=True)
class InstancePolicy:
    """What the board's owner has set for an instance. A limit of 0: the module gets what its manifest asks for."""

    grants: Capabilities = field(default_factory=lambda: Capabilities({}))
    config: Mapping[str, str] = field(default_factory=dict)  # a deployment's wins over it, key by key
    factory: Path | None = None
    memory_pages: int = 0  # of 64 KiB
    messages_per_s: int = 0
    log_lines_per_s: int = 0
    event_queue: int = 10_000  # events that wait
    event_queue_bytes: int = 8 << 20


@dataclass(frozen=True)
class Times:
    """How long things take, in seconds."""

    trial_s: float = 10.0
    trial_max_s: float = 86_400.0  # the longest wait for the events that a manifest asks for
    forget_s: float = 3600.0  # failures are forgotten after so long
    health_s: float = 30.0  # how often a module is asked, and its state kept


class Fetcher(Protocol):
    """Gets manifests and blobs by digest (device_agent.desired.fetch)."""

    async def manifest(self, digest: bytes) -> bytes:
        """An envelope, from the store or the broker. Raises Refused."""

    async def blob(self, wanted: AnyManifest | AotImage) -> None:
        """Sees to it that a blob is on disk, whole. Raises Refused."""

    def progress(self, manifest: bytes) -> tuple[int, int]:
        """How many chunks of an update are here, and how many it has; by the digest of its envelope."""


@dataclass(frozen=True)
class Services:
    """What every instance needs, made once."""

    store: Store
    on_writer: OnWriter  # runs a function on the one thread that waits for the disk
    spawn_supervised: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]  # runs work whose failure ends the agent
    new_worker: Callable[[ModuleSpec, Died], Worker]  # raises WorkerFailed
    new_fetcher: Callable[[], Fetcher]
    verify: Callable[[bytes], VerifiedManifest]  # an envelope that this board may install; on the writer; raises Refused
    check_signers: Callable[[AnyVerified], None]  # raises Refused when they have lost their role since
    image_classes: Callable[[bytes], Sequence[bytes]]  # of ahead-of-time images that this board can run, best first, by vendor
    kept: Kept
    times: Times
    now_s: Callable[[], float]  # seconds since 1970
    floor_s: Callable[[], int]  # it is not earlier, whatever the clock says
    owner: Owner = NO_RULES


class Hooks(Protocol):
    """What an instance tells, and asks, the node that it is in. `name` is the instance's."""

    def admit(self, name: str, verified: VerifiedManifest) -> None:
        """Before a download. Raises Refused INSTANCES_EXCEEDED, MEMORY_EXCEEDED, DEVICE_CLAIMED, CAPABILITY_DENIED."""

    async def until_free(self, name: str, devices: frozenset[str]) -> None:
        """Returns when no worker of another instance has one of these devices open, or has not given it up in time."""

    def follow(self, name: str) -> None:
        """What the instance subscribes to has changed."""

    def deliver(self, name: str, spec: ModuleSpec, done: frames.Done, hops: int, bus_number: int) -> asyncio.Future[None] | None:
        """Takes what a handled event asks for. `hops`, `bus_number`: of the event, 0 for one that was no other module's.

        What is returned, if anything, is done when the module may have its next event.
        """

    def consumed(self, name: str, bus_number: int) -> None:
        """An event of the bus was dropped or refused: it is not to come again."""

    def moved(self, name: str) -> None:
        """The instance's update has changed its phase, or its module has changed: it is reported, and its set may go on."""

    def began(self, name: str) -> None:
        """An update has begun: the operator may not want it any more."""

    def ended(self, name: str) -> None:
        """An update has ended; there may be another to begin."""

    def confirmed(self, name: str) -> None:
        """A module is the confirmed one, or the instance is gone, on disk: what nobody needs any more can be deleted."""

    def damaged(self, name: str, slot: str) -> None:
        """The blob or the manifest of a slot is to be fetched again."""
