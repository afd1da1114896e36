"""A board whose agent updates itself, without the rest of an agent: its folder of agents, its launcher, its database."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

from boards.onboard import versions
from device_agent.instance.services import Times
from device_agent.instance.targets import Release
from device_agent.node.agent_target import AgentTarget
from device_agent.node.launcher import Expectation, Launcher, host
from device_agent.storage import schema
from device_agent.storage.store import Store
from ota.formats import suit
from ota.formats.agent import ABI, AgentDescription, AgentManifest
from ota.formats.cbor import sha256
from ota.formats.classes import ANY_BOARD, class_id, vendor_id
from tests.support.signing import VENDOR, Signer

SIGNER = Signer()
ENVIRONMENT = {
    "WAMR_OTA_LAUNCH": "/opt/wamr-ota/launch",
    "WAMR_OTA_LAUNCHER": "1",
    "WAMR_OTA_PARENT": "4711",
    "WAMR_OTA_TARBALL": "new",
}
OURS = host().platforms()[0]
ABOUT = AgentDescription("new", OURS, schema.SCHEMA, 1, schema.READABLE_BY, 1000)


def manifest(about=ABOUT, sequence=5) -> AgentManifest:
    vendor = vendor_id(VENDOR)
    identifier = class_id(vendor, ANY_BOARD, about.platform.text, ABI)
    return AgentManifest(sequence, vendor, identifier, sha256(b"tarball"), 6, b"\2" * 32, about)


def signed(made: AgentManifest) -> bytes:
    encoded = made.to_bytes()
    return suit.encode_envelope(encoded, [SIGNER.keys["release"].sign1(suit.signed_digest(encoded))])


class Board:
    """The rest of an agent."""

    classes = (ANY_BOARD,)
    root = SIGNER.root()

    def __init__(self) -> None:
        self.running, self.online, self.acknowledges, self.handed_over, self.reports = frozenset(), True, True, False, 0
        self.expects_link = True

    def steady(self, config):
        return frozenset({"lamp"})

    async def report_acknowledged(self) -> bool:
        self.reports += 1
        return self.acknowledges

    def hand_over(self) -> None:
        self.handed_over = True


async def on_writer(function, *values):
    return await asyncio.to_thread(function, *values)


class World:
    """A board's folder of agents, the database, and an agent that the launcher has started."""

    def __init__(self, folder: Path) -> None:
        self.base, self.config = folder / "base", folder / "agent.toml"
        self.config.write_text('[device]\nid = "b"\ngroup = "g"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n')
        for name in ("old", "new"):
            (self.base / "versions" / name).mkdir(parents=True)
        self.point("confirmed", "old")
        self.store, self.board = Store(folder / "store"), Board()
        self.services = SimpleNamespace(
            store=self.store,
            on_writer=on_writer,
            spawn_supervised=asyncio.ensure_future,
            new_fetcher=lambda: SimpleNamespace(progress=lambda _: (0, 0)),
            check_signers=lambda _: None,
            times=Times(trial_s=0.05),
            now_s=lambda: 1_800_000_000,
        )
        self.hooks = SimpleNamespace(**dict.fromkeys(("moved", "began", "ended", "confirmed"), lambda _: None))

    def point(self, pointer: str, name: str) -> None:
        versions.point(self.base / pointer, name)

    def launcher(self, running: str, **more) -> Launcher:
        environment = ENVIRONMENT | {"WAMR_OTA_BASE": str(self.base), "WAMR_OTA_TARBALL": running} | more
        found = Launcher.here(environment, self.config)
        assert found is not None
        return found

    def target(self, running: str, **more) -> AgentTarget:
        return AgentTarget(self.launcher(running, **more), self.board, self.services, 30)

    def begin(self, *, instances=("lamp",), online=True, digest=b"\7" * 32) -> None:
        """What the old agent leaves, and the launcher has begun."""
        expected = Expectation(digest, "new", "old", frozenset(instances), online)
        (self.base / "trial.expects").write_bytes(expected.to_bytes())
        (self.base / "trial.air").write_text("new\n")
        self.point("trial", "new")

    def confirm_when_passed(self) -> None:
        """What the launcher does."""
        if (self.base / "trial.passed").exists():
            self.point("confirmed", "new")
            (self.base / "trial").unlink(missing_ok=True)


def on_trial(world):
    return world.target("new", WAMR_OTA_TRIAL="new")


def release(digest=b"\7" * 32):
    return Release(SimpleNamespace(manifest=manifest(), envelope_digest=digest), {})
