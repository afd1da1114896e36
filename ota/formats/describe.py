"""What a file is and says, for people and for machines: manifests, roots, deployments, reports, modules, tokens. Verifies nothing
but what a document proves by itself.
"""

import contextlib
import re
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ota.formats import bundle, component, suit, topics, wasm
from ota.formats.cbor import sha256
from ota.formats.cose import TYPE, Sign1
from ota.formats.deployment import DEPLOYMENT_LIMIT_BYTES, DEPLOYMENT_TYPE, FRACTION_ALL, Deployment, Entry
from ota.formats.describe_module import describe_component, describe_module
from ota.formats.encryption import EncryptionInfo
from ota.formats.enrolment import Token
from ota.formats.fields import malformed
from ota.formats.manifest import AgentManifest, AnyManifest, Manifest, board_of, read_manifest
from ota.formats.provenance import Kind, Provenance
from ota.formats.reasons import Refused
from ota.formats.report import InstanceReport, Report
from ota.formats.signed import SignedDocument
from ota.formats.signed_report import INSTANCE_REPORT, REPORT, Statement
from ota.formats.trust import ROOT_LIMIT_BYTES, ROOT_TYPE, Root, first_root

ENVELOPE_LIMIT_BYTES = 1 << 20  # larger than what boards accept: refused ones are shown too
_LAST_DATE_S = 253_402_300_799  # the end of the year 9999
_KINDS = "a manifest, a root, a deployment, a report, a module or image, a bundle, or an enrolment token"


@dataclass(frozen=True)
class Description:
    """What a file is, its content as plain values (bytes are digests and identifiers), and the same as labels and texts."""

    kind: str
    values: Mapping[str, Any]
    rows: tuple[tuple[str, str], ...]


def describe(data: bytes) -> Description:
    """Raises Refused MALFORMED for what is none of the kinds, and what its reader refuses for a damaged one."""
    if data.startswith(b"\0asm"):
        return _module(data)
    if data.startswith(b"\0aot"):
        return _made("ahead-of-time image", {"bytes": len(data), "sha256": sha256(data)})
    if data.startswith(b"wamr-ota-"):
        return _token(data)
    if data.startswith(b"\xd8\x6b"):  # tag 107
        return describe_manifest(data)
    if data.startswith(b"\x82"):  # a list of two
        return _signed(data)
    if data.startswith(b"\xd2"):  # tag 18
        return _statement(data)
    if data[257:262] == b"ustar":
        return _bundle(data)
    raise malformed("the file", f"not {_KINDS}{wasm.instead_of_module(data)}")


def _made(kind: str, values: dict[str, Any], rows: list[tuple[str, str]] | None = None) -> Description:
    if rows is None:
        rows = [(key.replace("_", " "), _text(value)) for key, value in values.items() if value not in (None, "", b"")]
    return Description(kind, {"kind": kind} | values, (("kind", kind), *rows))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items() if each not in ("", b""))
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(each) for each in value) or "none"
    return str(value)


def _date(seconds: int) -> str:
    if seconds > _LAST_DATE_S:
        return f"{seconds} s after 1970"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _module(data: bytes) -> Description:
    if component.is_component(data):
        return _made("component", *describe_component(data))
    if not data.startswith(wasm.MODULE_MAGIC):
        wasm.read(data)  # says what is wrong
    return _made("module", *describe_module(data))


def _token(data: bytes) -> Description:
    token = Token.from_text(data.decode("ascii", "replace"))
    return _made("enrolment token", {"identifier": token.identifier})  # the secret is never shown


def _signers(signatures: tuple[Sign1, ...]) -> list[bytes | None]:
    return [each.key_id for each in signatures]


def _signer_rows(signatures: tuple[Sign1, ...]) -> list[tuple[str, str]]:
    rows = [("signed by", each.key_id.hex()[:16] if each.key_id else "an unnamed key") for each in signatures]
    return rows or [("signed by", "nobody")]


def _signed(data: bytes) -> Description:
    document = SignedDocument.draft(data, "signed document", max(ROOT_LIMIT_BYTES, DEPLOYMENT_LIMIT_BYTES))
    types = [signature.headers.get(TYPE) for signature in document.signatures]
    if ROOT_TYPE in types:
        return _root(data, document)
    if DEPLOYMENT_TYPE in types:
        return _deployment(document)
    if not types:  # nobody has signed it yet
        with contextlib.suppress(Refused):
            return _root(data, document)
        return _deployment(document)
    raise malformed("signed document", "its signatures name neither a root nor a deployment as its type")


def _root(data: bytes, document: SignedDocument) -> Description:
    try:
        first_root(data)
        good = "yes"
    except Refused as error:
        good = f"no ({error})"
    root = Root.from_payload(document.payload)
    roles = {
        name: {"threshold": role.threshold, "keys": list(role.keys), "unusable": [key.label for key in role.unusable.values()]}
        for name, role in root.roles.items()
    }
    values: dict[str, Any] = {"number": root.number, "issued_s": root.issued_s, "expires_s": root.expires_s, "vendor": root.vendor}
    rows = [
        ("number", str(root.number)),
        ("vendor", root.vendor),
        ("issued", _date(root.issued_s)),
        ("expires", _date(root.expires_s)),
    ]
    for name, role in root.roles.items():
        names = [key.hex()[:16] for key in role.keys] + [f"{key.label}, not usable here" for key in role.unusable.values()]
        rows.append((f"role {name}", f"{role.threshold} of {', '.join(names)}"))
    rows += [*_signer_rows(document.signatures), ("verifies by itself", good)]
    values |= {"roles": roles, "signed_by": _signers(document.signatures), "verifies_by_itself": good == "yes"}
    return _made("root", values, rows)


def _deployment(document: SignedDocument) -> Description:
    found = Deployment.from_payload(document.payload)
    whose = {"device": found.device} if found.device else {"group": found.group}
    values: dict[str, Any] = {
        **whose,
        "epoch": found.epoch,
        "issued_s": found.issued_s,
        "instances": {name: _entry(each) for name, each in found.entries.items()},
        "signed_by": _signers(document.signatures),
    }
    rows = [*whose.items(), ("epoch", str(found.epoch)), ("issued", _date(found.issued_s))]
    for name, each in found.entries.items():
        rows += [("instance", name), *_entry_rows(each)]
    return _made("deployment", values, [*rows, *_signer_rows(document.signatures)])


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "manifest": entry.manifest_digest or None,
        "deployment": entry.deployment_id,
        "changed_s": entry.issued_s,
        "expires_s": entry.expires_s or None,
        "percent": entry.fraction_ppm * 100 / FRACTION_ALL,
        "boards": list(entry.boards),
        "paused": entry.paused,
        "window": str(entry.window) if entry.window else None,
        "config": dict(entry.config),
        "together": list(entry.together),
    }


def _entry_rows(entry: Entry) -> list[tuple[str, str]]:
    named = f" and {', '.join(entry.boards)}" if entry.boards else ""
    rows = [
        ("  manifest", entry.manifest_digest.hex() or "none: it is removed"),
        ("  deployment", entry.deployment_id.hex()),
        ("  changed", _date(entry.issued_s)),
        ("  boards", f"{entry.fraction_ppm * 100 / FRACTION_ALL:g} %{named}{', paused' if entry.paused else ''}"),
        ("  expires", _date(entry.expires_s) if entry.expires_s else "never"),
    ]
    if entry.window:
        rows.append(("  window", str(entry.window)))
    if entry.together:
        rows.append(("  together", ", ".join(entry.together)))
    return rows + [("  config", f"{key}={value}") for key, value in entry.config.items()]


def _statement(data: bytes) -> Description:
    """What a board signed."""
    kind = Sign1.from_bytes(data).headers.get(TYPE)
    if kind == REPORT:
        return _report(Statement.from_bytes(data, REPORT))
    if kind == INSTANCE_REPORT:
        return _instance_report(Statement.from_bytes(data, INSTANCE_REPORT))
    raise malformed("the file", f"not {_KINDS}")


def _report(statement: Statement) -> Description:
    report = Report.from_bytes(statement.claimed)
    values = {
        "device": report.device,
        "group": report.group,
        "board": report.board,
        "agent": report.agent,
        "time_s": report.time_s,
        "uptime_s": report.uptime_s,
        "instances": [vars(each) for each in report.instances],
        "refusals": [vars(each) for each in report.refusals],
        "problems": list(report.problems),
        "counters": dict(report.counters),
        "root": report.root,
        "algorithms": list(report.algorithms),
        "counter": report.counter,
        "journal": {"row": report.journal.row, "digest": report.journal.digest},
        "encryption": report.encryption or None,
        "signed_by": statement.key_id,
    }
    return _made("report", values)


def _instance_report(statement: Statement) -> Description:
    report = InstanceReport.from_bytes(statement.claimed)
    running, attempt = report.running, report.attempt
    values = {
        "device": report.device,
        "instance": report.instance,
        "time_s": report.time_s,
        "running": {"name": running.name, "version": running.version, "manifest": running.manifest, "slot": running.slot},
        "update": {"state": attempt.state, "reason": attempt.reason, "detail": attempt.detail, "deployment": attempt.deployment},
        "counters": dict(report.counters),
        "counter": report.counter,
        "signed_by": statement.key_id,
    }
    return _made("instance report", values)


def _bundle(data: bytes) -> Description:
    """A bundle by what lies in it, a file of reports by each of them."""
    try:
        messages = bundle.read_reports(data)
    except Refused:
        contents = bundle.read_contents(lambda offset, size: data[offset : offset + size], len(data))
        names = [each.removeprefix(f"{topics.PREFIX}/") for each in contents.topics()]
        chunks = Counter(each.split("/")[1] for each in names if re.fullmatch(r"blob/\w+/\d+", each))
        rows = [(each.partition("/")[0], each.partition("/")[2] or "yes") for each in names if not each.startswith("blob/")]
        rows += [("blob", f"{blob}, {count} chunk{'s' * (count != 1)}") for blob, count in chunks.items()]
        values = {"bytes": len(data), "members": [each for each in names if not each.startswith("blob/")], "blobs": dict(chunks)}
        return _made("bundle", values, rows)
    found = [(topic.removeprefix(f"{topics.PREFIX}/device/"), describe(payload)) for topic, payload in messages]
    rows = [row for name, each in found for row in (("report", name), *(each.rows[1:]))]
    return _made("reports", {"reports": [each.values for _, each in found]}, rows)


def describe_manifest(data: bytes) -> Description:
    """An envelope; one outside our profile is described too. Raises Refused for one that is not SUIT."""
    envelope = suit.Envelope.from_bytes(data, ENVELOPE_LIMIT_BYTES)
    sequence = envelope.manifest.get(suit.SEQUENCE)  # anything at all, until the profile is read
    values: dict[str, Any] = {"digest": sha256(data), "sequence": sequence if type(sequence) is int else None}
    rows = [("digest", sha256(data).hex()), ("sequence", str(values["sequence"])), *_signer_rows(envelope.signatures)]
    values["signed_by"] = _signers(envelope.signatures)
    values["text"], text_rows = said_of(envelope)
    rows += text_rows
    try:
        manifest = read_manifest(envelope)
    except Refused as error:
        commands = _commands(envelope)
        rows += [("profile", f"not one of ours ({error})"), *(("commands", f"{n}: {', '.join(c)}") for n, c in commands.items())]
        return _made("manifest", values | {"refused": error.reason.value, "detail": error.detail, "commands": commands}, rows)
    values |= _release(manifest)
    if isinstance(manifest, AgentManifest):
        return _made("agent's manifest", values | _agent(manifest), rows + _agent_rows(manifest))
    return _made("manifest", values | _profile(manifest), rows + _profile_rows(manifest))


def said_of(envelope: suit.Envelope) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
    """What an envelope has for people, as values and as labels and texts.

    None where there is nothing, where it was severed, and where it is no text of ours.
    """
    text = envelope.severed.get(suit.TEXT)
    if text is None:
        return None, [("text", "was severed")] if suit.TEXT in envelope.manifest else []
    try:
        said = Provenance.from_bytes(text)
    except Refused as error:
        return None, [("text", f"is not shown ({error})")]
    return _said_values(said), _said_rows(said)


def _said_values(said: Provenance) -> dict[str, Any]:
    """For machines."""
    return {
        "revision": said.revision or None,
        "builder": said.builder or None,
        "origin": said.origin or None,
        "sbom_sha256": said.sbom or None,
        "advisory": said.advisory or None,
        "cves": list(said.cves),
    }


def _said_rows(said: Provenance) -> list[tuple[str, str]]:
    """For people: a row for each line, so that no text can pass for another row."""
    rows = [("origin", said.origin), ("revision", said.revision), ("builder", said.builder)]
    rows += [("sbom", said.sbom.hex() and f"sha256 {said.sbom.hex()}")]
    rows += [("advisory", line or "-") for line in said.advisory.split("\n") if said.advisory]
    rows += [("mends", each) for each in said.cves]
    return [row for row in rows if row[1]]


def _release(manifest: AnyManifest) -> dict[str, Any]:
    return {
        "kind_of_update": manifest.kind.text,
        "vendor": str(uuid.UUID(bytes=manifest.vendor)),
        "board": board_of(manifest) or None,
        "class": str(uuid.UUID(bytes=manifest.class_identifier)),
        "image": {"bytes": manifest.size, "sha256": manifest.digest},
        "security_epoch": manifest.security_epoch,
    }


def _release_rows(manifest: AnyManifest) -> list[tuple[str, str]]:
    rows = [
        ("update", "" if manifest.kind is Kind.UNSPECIFIED else manifest.kind.text),
        ("vendor", str(uuid.UUID(bytes=manifest.vendor))),
        ("board", board_of(manifest)),
        ("class", str(uuid.UUID(bytes=manifest.class_identifier))),
        ("image", f"{manifest.size} bytes, sha256 {manifest.digest.hex()}"),
    ]
    return [row for row in rows if row[1]]


def _agent(manifest: AgentManifest) -> dict[str, Any]:
    agent = manifest.agent
    return {
        "agent": agent.version,
        "platform": {"architecture": agent.platform.architecture, "python": agent.platform.python, "libc": agent.platform.libc},
        "schema": {"writes": agent.schema, "reads": agent.reads, "readable_by": agent.readable_by},
        "unpacked_bytes": agent.unpacked_bytes,
    }


def _agent_rows(manifest: AgentManifest) -> list[tuple[str, str]]:
    agent = manifest.agent
    return [
        ("agent", agent.version),
        *_release_rows(manifest),
        ("platform", agent.platform.text),
        ("unpacked", f"{agent.unpacked_bytes} bytes"),
        ("epoch", str(agent.security_epoch)),
        ("database", f"schema {agent.schema}, opens {agent.reads} and later, is opened by {agent.readable_by} and later"),
    ]


def _encryption(manifest: Manifest) -> dict[str, Any] | None:
    """For whom a module is encrypted; None where it is not."""
    if manifest.ciphertext is None:
        return None
    info = EncryptionInfo.from_bytes(manifest.ciphertext.info)
    return {
        "sha256": manifest.ciphertext.digest,
        "groups": [each.key_id for each in info.recipients if each.ephemeral is None],
        "boards": [each.key_id for each in info.recipients if each.ephemeral is not None],
        "unknown": info.unknown,
    }


def _encryption_rows(manifest: Manifest) -> list[tuple[str, str]]:
    found = _encryption(manifest)
    if found is None:
        return []
    rows = [("encrypted for", f"group key {key.hex()}") for key in found["groups"]]
    rows += [("encrypted for", f"board key {key.hex()}") for key in found["boards"]]
    rows += [("encrypted for", f"{found['unknown']} of unknown kinds")] if found["unknown"] else []
    return [*rows, ("ciphertext", f"sha256 {found['sha256'].hex()}")]


def _profile(manifest: Manifest) -> dict[str, Any]:
    module = manifest.module
    return {
        "module": {"name": module.name, "version": module.version},
        "aot_images": [
            {"bytes": each.size, "sha256": each.digest, "class": str(uuid.UUID(bytes=each.class_identifier))}
            for each in manifest.images
        ],
        "limits": module.limits.to_value(),
        "capabilities": module.capabilities.to_value(),
        "encrypted": _encryption(manifest),
    }


def _profile_rows(manifest: Manifest) -> list[tuple[str, str]]:
    module, limits = manifest.module, manifest.module.limits
    rows = [
        ("module", f"{module.name} {module.version}"),
        *_release_rows(manifest),
        *_encryption_rows(manifest),
        *(("aot image", f"{image.size} bytes, class {uuid.UUID(bytes=image.class_identifier)}") for image in manifest.images),
        ("epoch", str(module.security_epoch)),
        ("limits", f"{limits.memory_pages * 64} KiB of memory, {limits.deadline_ms} ms an event"),
    ]
    if limits.tick_ms:
        rows.append(("timer", f"every {limits.tick_ms} ms"))
    for name, arguments in sorted(module.capabilities.items.items()):
        texts = [f"{key} {', '.join(each) if isinstance(each, tuple) else each}" for key, each in arguments.items()]
        rows.append(("capability", f"{name}{': ' if texts else ''}{'; '.join(texts)}"))
    return rows


def _commands(envelope: suit.Envelope) -> dict[str, list[str]]:
    found = {}
    for member in suit.SEQUENCES:
        commands = envelope.sequence(member)
        if commands is not None:
            found[suit.MANIFEST_MEMBERS[member]] = [suit.COMMANDS[number] for number, _ in commands]
    return found
