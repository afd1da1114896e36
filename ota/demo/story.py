"""The demonstration: runs each step for real, and prints at the end what was proven, with the counted evidence."""

import json
import secrets
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ota.author.build import Update, prepare, sign
from ota.cli.output import table
from ota.demo.stage import DEVICE, GROUP, Stage
from ota.errors import OtaError
from ota.formats import suit, topics
from ota.formats.deployment import DEPLOYMENT_TYPE, Deployment, Entry, verify
from ota.formats.report import InstanceReport, Message
from ota.keyring import SigningKey, sign_document
from ota.operator.broker import Broker
from ota.operator.publish import artifacts
from ota.operator.workspace import Workspace

OFFLINE_S = 3.0
PATIENCE_S = 60.0  # for anything that is waited for, on a busy machine too
MODULES = ("monitor-v1", "monitor-v2", "monitor-v3", "sampler", "summary")
MONITOR = "monitor"  # the instance that most chapters are about
Claim = tuple[str, bool, str]


def tell(modules: Path, *, pause: bool) -> int:
    """Returns 0 when everything that the demonstration claims has happened, 1 otherwise. Raises OtaError when it can't begin."""
    missing = [name for name in MODULES if not (modules / f"{name}.wasm").exists()]
    if missing:
        raise OtaError(f"{modules} lacks {', '.join(missing)}: build them with `python sdk/build.py --out {modules}`")
    with tempfile.TemporaryDirectory(prefix="wamr-ota-demo-") as folder:
        stage = Stage(Path(folder))
        story = _Story(stage, modules, pause)
        try:
            story.run()
        except OtaError as error:
            story.claims.append(("the demonstration ran to its end", False, str(error)))
            log = (Path(folder) / "board.log").read_text(encoding="utf-8").splitlines()
            sys.stderr.write("\n".join(["the board's log ends:", *log[-20:], ""]))
        finally:
            stage.close()
        return story.summary()


class _Story:
    def __init__(self, stage: Stage, modules: Path, pause: bool) -> None:
        self.stage, self.modules, self._pause = stage, modules, pause
        self.claims: list[Claim] = []
        self._step = 0
        self._refused: list[str] = []
        self._gap_ms = 0.0

    def run(self) -> None:
        self._beginning()
        self._first_module()
        self._hot_swap()
        self._rollback()
        self._two_modules()
        self._refusals()
        self._offline()
        self._balance("every reading until then was handled")
        self._power_cut()
        self._balance("and every reading since")

    def summary(self) -> int:
        self._say("\nWhat was just shown, counted from what happened:\n")
        rows = [("yes" if holds else "NO", what, evidence) for what, holds, evidence in self.claims]
        self._say(table(("held", "claim", "evidence"), rows))
        good = all(holds for _, holds, _ in self.claims)
        self._say("\nAll of it held." if good else "\nNot all of it held.")
        return 0 if good else 1

    # -- the chapters

    def _beginning(self) -> None:
        stage = self.stage
        self._chapter(
            "A broker, an operator, a board",
            "The broker is a real MQTT 5 broker. The operator makes keys and a root of trust; the board gets the root only.",
        )
        code, text = self._ota(
            "init", "--no-passphrase", "--broker", stage.broker.url, "--group", GROUP, "--vendor", "demo.example"
        )
        self._claim("keys and root of trust were made", code == 0, f"{len(text.splitlines())} files and folders")
        stage.start_board()
        stage.observer.wait(lambda: stage.observer.report is not None, PATIENCE_S, "the board's first report")
        self._say(f"  the board {DEVICE} is online; it has no module yet")

    def _first_module(self) -> None:
        self._chapter(
            "The first module", "monitor reads this machine's own load, memory and temperature, and learns what is usual."
        )
        code, _ = self._ota("publish", str(self.modules / "monitor-v1.wasm"), "--wait", f"{PATIENCE_S:.0f}")
        self._claim("a signed module was published and confirmed", code == 0 and self._runs("1.0.0"), self._running())
        self._collect(10)
        self._show_messages(3)

    def _hot_swap(self) -> None:
        self._chapter(
            "A better detector, while readings flow",
            "Version 2 starts beside version 1, takes over what it learned, and the two change between two readings.",
        )
        before = self._count("events_handled")
        code, _ = self._ota("publish", str(self.modules / "monitor-v2.wasm"), "--wait", f"{PATIENCE_S:.0f}")
        swapped = self._runs("2.0.0")
        self._collect(6)
        self._gap_ms = self._count("gap_us") / 1000
        self._show_messages(2)
        counts = self._event_counts("monitor 1.0.0", "monitor 2.0.0")
        self._claim(
            "version 2 took its place",
            code == 0 and swapped,
            f"gap {self._gap_ms:.1f} ms, {self._count('events_handled') - before} readings meanwhile",
        )
        self._claim(
            "it went on with what version 1 had learned",
            _contiguous(counts),
            f"readings {counts[0]} to {counts[-1]} without a hole" if counts else "none seen",
        )

    def _rollback(self) -> None:
        stage = self.stage
        self._chapter(
            "A faulty version",
            "Version 3 traps on its third reading. The board goes back to version 2, never stopped, and gives it that reading.",
        )
        code, _ = self._ota("publish", str(self.modules / "monitor-v3.wasm"), "--wait", f"{PATIENCE_S:.0f}")
        report = self._monitor()
        held = code == 1 and report.attempt.state == "rolled-back" and self._runs("2.0.0")
        self._claim("version 3 was rolled back by the board itself", held, f"{report.attempt.reason}: {report.attempt.detail}")
        before = self._count("events_handled")
        stage.observer.wait(lambda: self._count("events_handled") > before + 4, PATIENCE_S, "readings after the rollback")

    def _two_modules(self) -> None:
        observer = self.stage.observer
        self._chapter(
            "Two modules that talk to each other",
            "sampler says the load on local/samples; summary hears that on the board, and publishes a summary of every five."
            " The two are one set: both change, or neither.",
        )
        files = (str(self.modules / "sampler.wasm"), str(self.modules / "summary.wasm"))
        code, _ = self._ota("publish", *files, "--together", "--wait", f"{PATIENCE_S:.0f}")
        self._claim("two modules were published as one set", code == 0, f"{len(observer.instances)} instances on the board")
        observer.wait(lambda: self._of("summary"), PATIENCE_S, "a summary")
        told = self._of("summary")[-1]
        self._show_messages(1, "summary")
        self._ota("status")
        heard, counted = self._count("events_handled", "summary"), json.loads(told.payload)["samples"]
        self._claim(
            "one heard the other on the board", counted > 0, f"{max(heard, counted)} samples heard, {told.payload.decode()}"
        )
        leaked = [topic for topic in observer.topics if "local" in topic.split("/")]
        self._claim(
            "what they say under local/ stays there", not leaked, f"{len(leaked)} of {len(observer.topics)} topics on the broker"
        )

    def _refusals(self) -> None:
        self._chapter(
            "Updates that must not run",
            "Each comes with a rightly signed deployment, as if the deploy key were stolen: only the release key signs modules.",
        )
        workspace = Workspace.open(self.stage.workspace)
        draft = prepare(self.modules / "monitor-v2.wasm", workspace.settings.vendor)
        good = draft.signed(int(time.time()) + 10, workspace.key("release"))
        tampered = _replace_once(good.envelope, b"monitor", b"monitoR")
        attacks: list[tuple[str, Callable[[], Update], str]] = [
            ("one letter of a signed manifest changed", lambda: replace(good, envelope=tampered), "signature-invalid"),
            ("a manifest without a signature", lambda: sign(good.manifest, good.blob, good.index, []), "signature-missing"),
            (
                "a manifest signed by a stranger's key",
                lambda: sign(good.manifest, good.blob, good.index, [SigningKey.generate()]),
                "signer-unknown",
            ),
            ("last week's manifest, signed then", lambda: self._old(workspace, good), "sequence-too-old"),
        ]
        for what, make, expected in attacks:
            report = self._attack(workspace, make())
            held = report.attempt.state == "rejected" and report.attempt.reason == expected and self._runs("2.0.0")
            self._refused.append(report.attempt.reason)
            self._claim(f"refused: {what}", held, f"{report.attempt.reason}")
            self._say(f"  {what}: {report.attempt.state}, {report.attempt.reason}: {textwrap.shorten(report.attempt.detail, 80)}")

    def _offline(self) -> None:
        stage = self.stage
        self._chapter(
            "No network",
            f"The board's cable is pulled for {OFFLINE_S:.0f} seconds. Readings are handled; results wait on the board's disk.",
        )
        last = max(stage.observer.messages)
        stage.cable.pull()
        time.sleep(OFFLINE_S)
        seen = len(stage.observer.messages)
        stage.cable.plug()
        back_s, messages = time.time(), stage.observer.messages
        stage.observer.wait(lambda: messages[max(messages)].time_s > back_s, PATIENCE_S, "what the board kept while it was alone")
        late = [each for each in list(stage.observer.messages.values()) if each.number > last]
        span_s = max(each.time_s for each in late) - min(each.time_s for each in late)
        self._say(f"  {len(stage.observer.messages) - seen} results arrived when the cable was back")
        self._claim(
            "the board went on without a network",
            span_s >= OFFLINE_S / 2,
            f"results from {span_s:.1f} s of silence arrived later",
        )

    def _power_cut(self) -> None:
        stage = self.stage
        self._chapter(
            "Power cut, and no network to boot from",
            "Agent and worker are killed, and the cable is pulled. The board starts again from its own disk.",
        )
        stage.kill_board()
        stage.cable.pull()
        last = max(stage.observer.messages)
        stage.observer.report = None
        stage.observer.instances.clear()
        stage.start_board()
        time.sleep(1.5)
        stage.cable.plug()
        stage.observer.wait(
            lambda: stage.observer.report is not None and max(stage.observer.messages) > last + 5 and self._of("summary", last),
            PATIENCE_S,
            "the board after a power cut",
        )
        self._claim("after a power cut the confirmed module runs again", self._runs("2.0.0"), self._running())
        missing = stage.observer.missing(PATIENCE_S)
        lacking = f"{len(missing)} missing, the first is {missing[0]}" if missing else "all there"
        self._claim("no result was lost", not missing, f"messages 1 to {max(stage.observer.messages)}, {lacking}")

    def _balance(self, what: str) -> None:
        stage = self.stage
        stage.observer.wait(lambda: 0 < self._handled() == self._count("events"), PATIENCE_S, "a report with no reading in flight")
        swaps, rollbacks = self._count("swaps"), self._count("rollbacks")
        events, handled, dropped = (self._count(name) for name in ("events", "events_handled", "events_dropped"))
        self._claim(
            what,
            dropped == 0 and handled == events,
            f"{events} in, {handled} handled, {dropped} dropped; {swaps} swaps, {rollbacks} rolled back",
        )

    # -- helpers

    def _attack(self, workspace: Workspace, update: Update) -> InstanceReport:
        ours, now_s, topic = secrets.token_bytes(16), int(time.time()), topics.desired(GROUP)
        with Broker(workspace.settings) as broker:
            present = verify(broker.retained_one(topic) or b"", workspace.root(), group=GROUP)
            entries = {**present.entries, MONITOR: Entry(update.digest, ours, now_s)}
            deployment = Deployment(GROUP, workspace.next_epoch(GROUP, now_s), now_s, entries)
            document = sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, [workspace.key("deploy")])
            broker.publish_all([*artifacts(update), (topic, document)])
        self.stage.observer.wait(
            lambda: (
                self._monitor().attempt.deployment == ours and self._monitor().attempt.state in ("rejected", "failed", "confirmed")
            ),
            PATIENCE_S,
            "the board's answer",
        )
        return self._monitor()

    def _old(self, workspace: Workspace, good: Update) -> Update:
        manifest = replace(good.manifest, sequence=int(time.time()) - 7 * 86_400)
        return sign(manifest, good.blob, good.index, [workspace.key("release")])

    def _count(self, name: str, instance: str = MONITOR) -> int:
        return self.stage.counter(name, instance)

    def _handled(self) -> int:
        return sum(self._count(name) for name in ("events_handled", "events_refused", "events_dropped"))

    def _monitor(self) -> InstanceReport:
        return self.stage.observer.instances.get(MONITOR, InstanceReport(DEVICE, MONITOR, 0))

    def _running(self) -> str:
        running = self._monitor().running
        return f"{running.name} {running.version}, {running.slot}"

    def _runs(self, version: str) -> bool:
        def runs() -> bool:
            running = self._monitor().running
            return (running.version, running.slot) == (version, "confirmed")

        self.stage.observer.wait(runs, PATIENCE_S, f"version {version} running")
        return True

    def _of(self, instance: str, after: int = 0) -> list[Message]:
        messages = self.stage.observer.messages
        return [messages[number] for number in sorted(messages) if number > after and messages[number].instance == instance]

    def _collect(self, more: int) -> None:
        observer = self.stage.observer
        target = len(observer.messages) + more
        observer.wait(lambda: len(observer.messages) >= target, PATIENCE_S, "readings")

    def _event_counts(self, *modules: str) -> list[int]:
        messages = self.stage.observer.messages
        chosen = (messages[number] for number in sorted(messages) if messages[number].module in modules)
        return [json.loads(each.payload)["event"] for each in chosen if "/readings/" in each.topic]

    def _show_messages(self, count: int, instance: str = MONITOR) -> None:
        for each in self._of(instance)[-count:]:
            self._say(f"  {each.module}: {each.topic} {each.payload.decode()}")

    def _ota(self, *words: str) -> tuple[int, str]:
        shown = " ".join(word.removeprefix(f"{self.modules}/") for word in words)
        self._say(f"  $ ota {shown}")
        code, text = self.stage.ota(*words)
        self._say(textwrap.indent(text.rstrip().replace(str(self.stage.folder), "…"), "    "))
        return code, text

    def _chapter(self, title: str, text: str) -> None:
        self._step += 1
        self._say(f"\n{self._step}. {title}\n{textwrap.fill(text, 100, initial_indent='   ', subsequent_indent='   ')}")
        if self._pause:
            time.sleep(1.5)

    def _claim(self, what: str, holds: bool, evidence: str) -> None:
        self.claims.append((what, holds, evidence))

    def _say(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _contiguous(counts: list[int]) -> bool:
    return bool(counts) and counts == list(range(counts[0], counts[0] + len(counts)))


def _replace_once(data: bytes, old: bytes, new: bytes) -> bytes:
    """Changes the envelope's manifest and puts the right digest over it again, so that only the signature can tell."""
    envelope = suit.Envelope.from_bytes(data, 1 << 20)
    changed = envelope.manifest_bytes.replace(old, new, 1)
    return data.replace(envelope.manifest_bytes, changed).replace(envelope.digest, suit.signed_digest(changed))
