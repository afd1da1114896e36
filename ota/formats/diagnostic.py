"""Manifests and other documents for people: a description, and CBOR diagnostic notation (RFC 8949 section 8)."""

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import cbor2

from ota.formats import suit
from ota.formats.manifest import Manifest
from ota.formats.reasons import Refused

_NESTED_DEPTH = 12


def diagnostic(data: bytes) -> str:
    """CBOR diagnostic notation of one item. Byte strings that hold CBOR are shown as << … >>. Raises ValueError."""
    return _diag(cbor2.loads(data), 0)


def _diag(value: Any, depth: int) -> str:
    pad, inner = "  " * depth, "  " * (depth + 1)
    if isinstance(value, cbor2.CBORTag):
        return f"{value.tag}({_diag(value.value, depth)})"
    if isinstance(value, Mapping) and value:
        items = ",\n".join(f"{inner}{_diag(key, depth)}: {_diag(each, depth + 1)}" for key, each in value.items())
        return f"{{\n{items}\n{pad}}}"
    if isinstance(value, (list, tuple)):
        if all(isinstance(each, (int, str)) or each is None for each in value):
            return f"[{', '.join(_diag(each, depth) for each in value)}]"
        items = ",\n".join(f"{inner}{_diag(each, depth + 1)}" for each in value)
        return f"[\n{items}\n{pad}]"
    if isinstance(value, bytes):
        nested = _nested(value) if depth < _NESTED_DEPTH else None
        return f"<< {_diag(nested[0], depth)} >>" if nested else f"h'{value.hex()}'"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "{}" if value == {} else str(value)


def _nested(value: bytes) -> tuple[Any] | None:
    """The content of a byte string that holds a CBOR map, list or tag, and nothing else."""
    if not value or value[0] >> 5 not in (4, 5, 6):
        return None
    try:
        decoded = cbor2.loads(value)
    except (cbor2.CBORDecodeError, ValueError):
        return None
    return (decoded,) if cbor2.dumps(decoded) == value and isinstance(decoded, (Mapping, list, cbor2.CBORTag)) else None


def describe_manifest(data: bytes) -> list[tuple[str, str]]:
    """What an envelope says, as labels and texts. Raises Refused for one that is not SUIT; one outside our profile is described."""
    envelope = suit.Envelope.from_bytes(data, 1 << 20)
    rows = [("sequence", str(envelope.manifest.get(suit.SEQUENCE)))]
    rows += [("signed by", each.key_id.hex()[:16] if each.key_id else "an unnamed key") for each in envelope.signatures]
    if not envelope.signatures:
        rows.append(("signed by", "nobody"))
    try:
        rows += _profile(Manifest.from_envelope(envelope))
    except Refused as error:
        rows.append(("profile", f"not one of ours ({error})"))
        rows += [("commands", line) for line in _commands(envelope)]
    return rows


def _profile(manifest: Manifest) -> list[tuple[str, str]]:
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
    if limits.tick_ms:
        rows.append(("timer", f"every {limits.tick_ms} ms"))
    for name, arguments in sorted(module.capabilities.items.items()):
        texts = [f"{key} {', '.join(each) if isinstance(each, tuple) else each}" for key, each in arguments.items()]
        rows.append(("capability", f"{name}{': ' if texts else ''}{'; '.join(texts)}"))
    return rows


def _commands(envelope: suit.Envelope) -> Iterator[str]:
    for member in suit.SEQUENCES:
        commands = envelope.sequence(member)
        if commands is not None:
            names = ", ".join(suit.COMMANDS[number] for number, _ in commands)
            yield f"{suit.MANIFEST_MEMBERS[member]}: {names}"
