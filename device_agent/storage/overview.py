"""What a board has on its disk: read beside an agent that runs, without its lock, and never written to."""

from dataclasses import dataclass
from pathlib import Path

from device_agent.storage.export import reading
from ota.formats import suit
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, read_manifest
from ota.formats.reasons import Refused

__all__ = ["Standing", "standings"]


@dataclass(frozen=True)
class Standing:
    """An instance. `confirmed` and `previous`: name and version of its modules, "" for none. The rest is its newest update's."""

    instance: str
    confirmed: str
    previous: str
    update: str
    manifest: str
    reason: str
    detail: str
    time_s: int


def standings(folder: Path) -> list[Standing]:
    """Of a storage folder, by name; instances that were removed are not among them. Raises OtaError."""
    with reading(folder) as database:
        envelopes = dict(database.execute("select digest, envelope from envelopes"))
        slots = {
            (instance, name): _label(envelopes.get(digest, b""), module)
            for instance, name, module, digest in database.execute("select instance, name, module, envelope from slots")
        }
        last = "select max(id) from journal group by instance"
        query = f"select instance, phase, manifest, reason, detail, time_s from journal where id in ({last}) order by instance"
        found = [
            Standing(
                instance,
                slots.get((instance, "confirmed"), ""),
                slots.get((instance, "previous"), ""),
                phase,
                manifest.hex(),
                *rest,
            )
            for instance, phase, manifest, *rest in database.execute(query)
        ]
    return [each for each in found if each.confirmed or each.previous or each.manifest]


def _label(envelope: bytes, module: str) -> str:
    try:
        manifest = read_manifest(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES))
        return f"{manifest.name} {manifest.version}"
    except Refused:
        return module  # the manifest is damaged
