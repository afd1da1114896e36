"""What a file is and says, for people and for machines: manifests, roots, deployments, reports, modules, tokens. Verifies nothing
but what a document proves by itself.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ota.formats import cbor, suit, wasm
from ota.formats.cbor import sha256
from ota.formats.cose import TYPE, Sign1
from ota.formats.deployment import DEPLOYMENT_LIMIT_BYTES, DEPLOYMENT_TYPE, FRACTION_ALL, Deployment
from ota.formats.enrolment import Token
from ota.formats.fields import malformed
from ota.formats.manifest import Manifest, board_of
from ota.formats.reasons import Refused
from ota.formats.report import REPORT_LIMIT_BYTES, Report
from ota.formats.signed import SignedDocument
from ota.formats.trust import ROOT_LIMIT_BYTES, ROOT_TYPE, Root, first_root

ENVELOPE_LIMIT_BYTES = 1 << 20  # larger than what boards accept: refused ones are shown too
_LAST_DATE_S = 253_402_300_799  # the end of the year 9999
_KINDS = "a manifest, a root, a deployment, a report, a module or image, or an enrolment token"


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
    if data[:1] and data[0] >> 5 == 5:  # a map
        return _report(data)
    raise malformed("the file", f"not {_KINDS}")


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
    shape = wasm.read(data)
    imports = [f"{module}.{name}" for module, name in shape.imports]
    values = {"bytes": len(data), "sha256": sha256(data), "memory_pages": shape.memory_pages, "imports": imports}
    rows = [("size", f"{len(data)} bytes"), ("sha256", sha256(data).hex()), ("memory", f"{shape.memory_pages} pages of 64 KiB")]
    rows += [("import", each) for each in imports] + [("export", each) for each in shape.exports]
    return _made("module", values | {"exports": list(shape.exports)}, rows)


def _token(data: bytes) -> Description:
    token = Token.from_text(data.decode("ascii", "replace"))
    return _made("enrolment token", {"identifier": token.identifier})  # the secret is never shown


def _signers(signatures: tuple[Sign1, ...]) -> list[bytes | None]:
    return [each.key_id for each in signatures]


def _signer_rows(signatures: tuple[Sign1, ...]) -> list[tuple[str, str]]:
    rows = [("signed by", each.key_id.hex()[:16] if each.key_id else "an unnamed key") for each in signatures]
    return rows or [("signed by", "nobody")]


def _signed(data: bytes) -> Description:
    document = SignedDocument.from_bytes(data, "signed document", max(ROOT_LIMIT_BYTES, DEPLOYMENT_LIMIT_BYTES))
    types = [signature.headers.get(TYPE) for signature in document.signatures]
    if ROOT_TYPE in types:
        return _root(data, document)
    if DEPLOYMENT_TYPE in types:
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
    values = {
        "group": found.group,
        "deployment": found.deployment_id,
        "manifest": found.manifest_digest,
        "epoch": found.epoch,
        "issued_s": found.issued_s,
        "expires_s": found.expires_s or None,
        "percent": found.fraction_ppm * 100 / FRACTION_ALL,
        "paused": found.paused,
        "signed_by": _signers(document.signatures),
    }
    rows = [
        ("group", found.group),
        ("deployment", found.deployment_id.hex()),
        ("manifest", found.manifest_digest.hex()),
        ("epoch", str(found.epoch)),
        ("issued", _date(found.issued_s)),
        ("expires", _date(found.expires_s) if found.expires_s else "never"),
        ("boards", f"{found.fraction_ppm * 100 / FRACTION_ALL:g} %{', paused' if found.paused else ''}"),
        *_signer_rows(document.signatures),
    ]
    return _made("deployment", values, rows)


def _report(data: bytes) -> Description:
    if "device" not in cbor.decode(data, "the file", REPORT_LIMIT_BYTES):
        raise malformed("the file", f"not {_KINDS}")
    report = Report.from_bytes(data)
    running, attempt = report.running, report.attempt
    values = {
        "device": report.device,
        "group": report.group,
        "board": report.board,
        "agent": report.agent,
        "time_s": report.time_s,
        "uptime_s": report.uptime_s,
        "running": {"name": running.name, "version": running.version, "manifest": running.manifest, "slot": running.slot},
        "update": {"state": attempt.state, "reason": attempt.reason, "detail": attempt.detail, "deployment": attempt.deployment},
        "problems": list(report.problems),
        "counters": dict(report.counters),
    }
    return _made("report", values)


def describe_manifest(data: bytes) -> Description:
    """An envelope; one outside our profile is described too. Raises Refused for one that is not SUIT."""
    envelope = suit.Envelope.from_bytes(data, ENVELOPE_LIMIT_BYTES)
    values: dict[str, Any] = {"digest": sha256(data), "sequence": envelope.manifest.get(suit.SEQUENCE)}
    rows = [("digest", sha256(data).hex()), ("sequence", str(values["sequence"])), *_signer_rows(envelope.signatures)]
    values["signed_by"] = _signers(envelope.signatures)
    try:
        manifest = Manifest.from_envelope(envelope)
    except Refused as error:
        commands = _commands(envelope)
        rows += [("profile", f"not one of ours ({error})"), *(("commands", f"{n}: {', '.join(c)}") for n, c in commands.items())]
        return _made("manifest", values | {"refused": error.reason.value, "detail": error.detail, "commands": commands}, rows)
    return _made("manifest", values | _profile(manifest), rows + _profile_rows(manifest))


def _profile(manifest: Manifest) -> dict[str, Any]:
    module = manifest.module
    return {
        "module": {"name": module.name, "version": module.version},
        "vendor": str(uuid.UUID(bytes=manifest.vendor)),
        "board": board_of(manifest) or None,
        "class": str(uuid.UUID(bytes=manifest.class_identifier)),
        "image": {"bytes": manifest.size, "sha256": manifest.digest},
        "aot_images": [
            {"bytes": each.size, "sha256": each.digest, "class": str(uuid.UUID(bytes=each.class_identifier))}
            for each in manifest.images
        ],
        "security_epoch": module.security_epoch,
        "limits": module.limits.to_value(),
        "capabilities": module.capabilities.to_value(),
    }


def _profile_rows(manifest: Manifest) -> list[tuple[str, str]]:
    module, limits = manifest.module, manifest.module.limits
    rows = [
        ("module", f"{module.name} {module.version}"),
        ("vendor", str(uuid.UUID(bytes=manifest.vendor))),
        ("class", str(uuid.UUID(bytes=manifest.class_identifier))),
        ("image", f"{manifest.size} bytes, sha256 {manifest.digest.hex()}"),
        *(("aot image", f"{image.size} bytes, class {uuid.UUID(bytes=image.class_identifier)}") for image in manifest.images),
        ("epoch", str(module.security_epoch)),
        ("limits", f"{limits.memory_pages * 64} KiB of memory, {limits.deadline_ms} ms an event"),
    ]
    if board_of(manifest):
        rows.insert(2, ("board", board_of(manifest)))
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
