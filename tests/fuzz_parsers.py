"""Fuzzing of everything that reads bytes from outside, guided by coverage (atheris). `python -m tests.fuzz_parsers --out FILE`.

A parser reads its input or refuses it with the exceptions that its docstring names. Anything else is a fault: the input is kept in
build/fuzz-parsers/NAME, and the exit code is 1. Each parser is fuzzed in a process of its own; its corpus is kept and grows.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "fuzz-parsers"
MAX_BYTES, INPUT_TIMEOUT_S, MEMORY_MB, START_S = 16 * 1024, 10, 1024, 300


COMPONENT = """(component (import "a:b/c@0.2.1" (instance)) (import "f" (func $f (param "x" string)))
  (core module $m (import "a:b/c@0.2.1" "d" (func)) (memory (export "m") 1) (func (export "g")))
  (core module (table (export "$imports") 1 1 funcref) (func (export "0") (call_indirect (i32.const 0))))
  (core module $n (memory (export "m") 1)) (core instance $i (instantiate $n)) (component (core module (memory 1)))
  (core func (canon lower (func $f) (memory (core memory $i "m")))) (export "g" (func $f)))"""


@dataclass(frozen=True)
class Target:
    """A parser, what it may raise, and inputs to begin with."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Sequence[bytes]


def targets() -> dict[str, Target]:
    """By name. Imports what it instruments, so that it is called by the fuzzing process only after atheris is there."""
    from device_agent.broker import packets
    from device_agent.channel import frames
    from device_agent.node import launcher
    from device_agent.storage.anchor import Anchor
    from ota.author.docker_config import parse_config, written
    from ota.errors import OtaError
    from ota.formats import audit, bundle, cbor, describe, diagnostic, journal, manifest, oci, suit, topics, wasm
    from ota.formats.agent import AgentDescription
    from ota.formats.broker_url import BrokerUrl
    from ota.formats.chunks import ChunkIndex
    from ota.formats.cose import Sign1
    from ota.formats.deployment import Deployment
    from ota.formats.encryption import EncryptionInfo, GroupKey, read_public_key
    from ota.formats.enrolment import Answer, Request
    from ota.formats.key_delivery import KeyDelivery
    from ota.formats.loadable import core_module
    from ota.formats.module import ModuleDescription
    from ota.formats.provenance import Provenance
    from ota.formats.reasons import Refused
    from ota.formats.renewal import RenewalRequest, SignedRequest
    from ota.formats.report import InstanceReport, Report, decode_logs, decode_messages
    from ota.formats.signed_report import REPORT, Statement
    from ota.formats.trust import Root, first_root
    from ota.operator import signing
    from tests.support import documents
    from tests.support.documents import WRITTEN, content
    from tests.support.tools import wasm_tools

    def envelope(data: bytes) -> object:
        return manifest.read_manifest(suit.Envelope.from_bytes(data, manifest.MANIFEST_LIMIT_BYTES))

    def unsigned(data: bytes) -> object:
        return envelope(suit.encode_envelope(data, []))

    def anchor(data: bytes) -> object:
        return Anchor.from_bytes(cbor.encode([data, cbor.sha256(data)]))

    def publish(data: bytes) -> object:
        if (found := packets.bounds(bytearray(data), 0)) is not None:
            packets.read_puback(data[found[0] : found[1]])
            return packets.read_publish(data[0], data[found[0] : found[1]])
        return None

    def chunks(data: bytes) -> object:
        return ChunkIndex.from_bytes(data, cbor.sha256(data), documents.LARGE.index.digest, documents.LARGE.index.size)

    def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
        return lambda data: read(data.decode("utf-8", "replace"))

    def packed(*messages: tuple[str, bytes]) -> bytes:
        out = bytearray()
        bundle.pack([(topic, lambda found=found: found) for topic, found in messages], out.extend)
        return bytes(out)

    manifest_bytes = documents.UPDATE.manifest.to_bytes()
    refused = (Refused,)
    whole = packed((topics.root(1), WRITTEN["root-document"]), (topics.manifest(documents.UPDATE.digest), WRITTEN["envelope"]))
    done = frames.encode_answer(frames.Done((("t", b"x"),), (frames.KeyWrite("k", b"v"),)))
    artifact = json.dumps({"config": {"mediaType": oci.CONFIG, "digest": oci.digest_of(b""), "size": 1}, "layers": []}).encode()
    wrapped = wasm_tools("parse", "-", text=COMPONENT)
    compact = wasm_tools(
        "parse", "-", text='(module (import "a" (item "b" (func)) (item "c" (memory 1))) (import "d" (item "e") (func)))'
    )
    return {
        "manifest": Target(unsigned, refused, [manifest_bytes, documents.SEALED.manifest.to_bytes()]),
        "envelope": Target(envelope, refused, [WRITTEN["envelope"], WRITTEN["encrypted-envelope"]]),
        "root": Target(Root.from_payload, refused, [content(WRITTEN["root-document"])]),
        "deployment": Target(Deployment.from_payload, refused, [content(WRITTEN["deployment-document"])]),
        "bundle": Target(lambda data: bundle.read_contents(lambda at, n: data[at : at + n], len(data)), refused, [whole]),
        "wasm": Target(lambda data: (wasm.read(data), wasm.producers(data)), refused, [b"\0asm\1\0\0\0\1\5\1\x60\0\1\x7f"]),
        "component": Target(lambda data: (core_module(data), describe.describe(data)), refused, [wrapped, compact]),
        "report": Target(Report.from_bytes, refused, [WRITTEN["report"]]),
        "statement": Target(lambda data: Statement.from_bytes(data, REPORT).key, refused, [WRITTEN["signed-report"]]),
        "frames": Target(frames.decode_answer, refused, [done]),
        "packets": Target(publish, (packets.Malformed,), [packets.publish("a/b", b"x", 1, None), packets.puback(1)]),
        "cbor": Target(lambda data: cbor.decode(data, "fuzzed", 1 << 20, (18, 107)), refused, list(WRITTEN.values())),
        "describe": Target(describe.describe, refused, list(WRITTEN.values())),
        "diagnostic": Target(diagnostic.diagnostic, (ValueError,), list(WRITTEN.values())),
        "signed-root": Target(first_root, refused, [WRITTEN["root-document"]]),
        "sign1": Target(Sign1.from_bytes, refused, [WRITTEN["signed-report"]]),
        "instance-report": Target(InstanceReport.from_bytes, refused, [WRITTEN["instance-report"]]),
        "logs": Target(decode_logs, refused, [WRITTEN["logs"]]),
        "telemetry": Target(decode_messages, refused, [WRITTEN["telemetry"]]),
        "module": Target(ModuleDescription.from_bytes, refused, [WRITTEN["module"]]),
        "agent": Target(AgentDescription.from_bytes, refused, [WRITTEN["agent"]]),
        "text-map": Target(Provenance.from_bytes, refused, [WRITTEN["text-map"]]),
        "encryption-info": Target(EncryptionInfo.from_bytes, refused, [documents.SEALED.manifest.ciphertext.info]),
        "group-key": Target(GroupKey.from_bytes, refused, [WRITTEN["group-key"]]),
        "group-keys": Target(KeyDelivery.from_payload, refused, [content(WRITTEN["group-keys-document"])]),
        "board-key": Target(read_public_key, refused, [documents.REPORT_OF_BOARD.encryption]),
        "chunk-index": Target(chunks, refused, [WRITTEN["chunk-index"]]),
        "enrolment-request": Target(Request.from_bytes, refused, [WRITTEN["enrolment-request"]]),
        "enrolment-answer": Target(Answer.from_bytes, refused, [WRITTEN["enrolment-answer"]]),
        "renewal-request": Target(RenewalRequest.from_payload, refused, [WRITTEN["renewal-request"]]),
        "renewal-signed": Target(SignedRequest.from_bytes, refused, [WRITTEN["renewal-request"]]),
        "requests": Target(frames.decode_request, refused, [frames.encode_request(frames.Events((frames.Event("t", b"x"),)))]),
        "anchor": Target(anchor, refused, [cbor.encode([2, [], [], [], []])]),
        "expectation": Target(launcher.Expectation.from_bytes, (ValueError, KeyError, TypeError), [b'{"manifest": "00"}']),
        "agent-answer": Target(
            lambda data: launcher._answer(data, "nothing said"), refused, [b'{"good": false, "reason": "too-large", "why": "x"}']
        ),
        "signable": Target(signing.Signable.from_bytes, refused, [WRITTEN["root-document"], WRITTEN["envelope"]]),
        "audit": Target(audit.read_line, refused, [b"{}"]),
        "journal": Target(text(lambda found: journal.read([found])), refused, [b"[]"]),
        "template": Target(text(topics.Template.parse), (ValueError,), [b"devices/{device}/{topic}"]),
        "broker-url": Target(text(BrokerUrl.parse), (ValueError,), [b"mqtts://a.example:8883"]),
        "reports-file": Target(bundle.read_reports, refused, [bundle.pack_reports([])]),
        "oci-manifest": Target(lambda data: oci.Artifact.from_bytes(data, "x").module("x"), refused, [artifact]),
        "oci-index": Target(lambda data: oci.manifest_in(data, "x"), refused, [b'{"manifests": []}']),
        "oci-reference": Target(text(oci.Reference.parse), (OtaError,), [b"oci://x:1/y:z@" + oci.digest_of(b"").encode()]),
        "docker-config": Target(
            lambda data: written(parse_config(data, "x"), "x"), (OtaError,), [b'{"auths": {"x": {"auth": "YTpi"}}}']
        ),
    }


BIG = (
    "manifest", "envelope", "root", "deployment", "bundle", "wasm", "component",
    "report", "statement", "frames", "packets", "cbor", "describe",
)  # fmt: skip
"""Those that get the whole time; the others get a tenth."""


def fuzz(name: str, seconds: int) -> None:
    """In this process, which libFuzzer ends."""
    import atheris

    # The loader of an editable installation hands out modules that are not instrumented; the sources are in the path anyway.
    sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in type(each).__module__]
    with atheris.instrument_imports(include=["ota", "device_agent"]):
        target = targets()[name]
    corpus = FOLDER / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        with contextlib.suppress(*target.refusals):
            target.read(data)

    limits = (f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-timeout={INPUT_TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}")
    atheris.Setup([name, str(corpus), *limits, f"-artifact_prefix={FOLDER / name}/", "-print_final_stats=1"], once)
    atheris.Fuzz()


def run(name: str, seconds: int) -> dict[str, object]:
    """One parser in a process of its own: how many inputs were tried, and what went wrong with the last."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz_parsers", "--one", name, "--seconds", str(seconds)]
    fault = ""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds + START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            fault = f"it did not end within {seconds + START_S} s\n"
    executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    covered = re.findall(r" cov: (\d+) ", said)
    if process.returncode:
        fault += said[-3000:]
    return {
        "parser": name,
        "executions": int(executions[1]) if executions else 0,
        "branches": int(covered[-1]) if covered else 0,
        "seconds": round(time.monotonic() - begun),
        "fault": fault,
    }


def main() -> int:
    """Returns 1 where a parser raised what it must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for each of the big parsers; the others get a tenth")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--side-by-side", type=int, default=2)
    parser.add_argument("--out", type=Path, default=FOLDER / "result.json")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        fuzz(arguments.one, arguments.seconds)
        return 0
    names = arguments.only or list(targets())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found = []
    with ThreadPoolExecutor(arguments.side_by_side) as pool:
        whole, part = arguments.seconds, max(arguments.seconds // 10, 1)
        for each in pool.map(lambda name: run(name, whole if name in BIG else part), names):
            found.append(each)
            # After each: a run takes an hour, and may be interrupted.
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
            said = "FAULT" * bool(each["fault"])
            print(f"{each['parser']:20} {each['executions']:>10} inputs {each['branches']:>6} branches {said}", flush=True)
    return int(any(each["fault"] for each in found))


if __name__ == "__main__":
    sys.exit(main())
