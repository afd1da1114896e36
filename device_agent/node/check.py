"""`device-agent check`: what the agent would find with a configuration, beside an agent that runs with it.

It takes no lock and writes nothing: the database is read, devices are looked for and not opened, no broker is asked.
"""

import errno
import importlib.util
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.broker.settings import BrokerConfig
from device_agent.channel.measures import intolerable, lacking
from device_agent.desired.reading_keys import PATTERN, read_group_key
from device_agent.node.config import Config, load
from device_agent.sandbox.confinement import measures_here
from device_agent.storage.disk import is_locked
from device_agent.storage.export import reading
from device_agent.storage.store import DATABASE
from ota.errors import OtaError
from ota.formats import trust
from ota.formats.capabilities import split_line, split_port
from ota.formats.reasons import Refused

__all__ = ["Finding", "check"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Where it is not `good`, an agent would not do all that its configuration says."""

    what: str
    good: bool
    text: str


def check(path: Path) -> tuple[Finding, ...]:
    """What a configuration leads to. Raises ConfigError for a file that is none."""
    config = load(path)
    findings = [Finding("configuration", True, f"{path}: {config.device}, group {config.group}, board {config.board}")]
    for what, look in _LOOKS.items():
        try:
            findings += [Finding(what, True, text) for text in look(config)]
        except (OtaError, OSError, sqlite3.Error) as error:
            findings.append(Finding(what, False, _text(error)))
    return tuple(findings)


class _Missing(OtaError):
    """Something that the configuration names is not there."""


def _text(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)


def _trust(config: Config) -> Iterator[str]:
    try:
        root = trust.first_root(config.trust_root.read_bytes())
    except Refused as error:
        raise _Missing(f"{config.trust_root}: {error}") from error
    yield f"{config.trust_root}: root {root.number} of {root.vendor}"
    kept = _kept_roots(config.storage / DATABASE)
    if kept:
        yield f"{config.storage}: roots up to {max(kept)} are kept"


def _kept_roots(database: Path) -> list[int]:
    if not database.exists():
        return []
    with reading(database.parent) as opened:
        return [number for (number,) in opened.execute("select number from roots")]


def _storage(config: Config) -> Iterator[str]:
    folder = config.storage
    if not folder.exists():
        there = next(each for each in folder.absolute().parents if each.exists())
        if not os.access(there, os.W_OK):
            raise _Missing(f"{folder} is not there, and cannot be made in {there}")
        yield f"{folder}: will be made"
        return
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise _Missing(f"{folder} is no folder that can be written")
    free = os.statvfs(folder)
    mebibytes = free.f_bavail * free.f_frsize >> 20
    yield f"{folder}: {mebibytes} MiB free, {'an agent uses it' if is_locked(folder) else 'no agent uses it'}"


def _broker(config: Config) -> Iterator[str]:
    broker = config.broker
    if broker is None:
        yield "none: the board works alone"
        return
    for each in (broker.ca_file, broker.password_file):
        if each is not None:
            each.read_bytes()
    if config.wants_enrolment:
        yield f"{broker.url}, not contacted: a token, no certificate yet: the agent will ask for one"
    elif broker.certificate_file is not None and broker.key_file is not None:
        yield f"{broker.url}, not contacted: {_certificate(broker, config.device)}"
    else:
        yield f"{broker.url}, not contacted: without a certificate"


def _certificate(broker: BrokerConfig, device: str) -> str:
    from cryptography import x509  # megabytes that no other check needs

    from device_agent.broker.certificates import check_certificate

    assert broker.certificate_file is not None
    assert broker.key_file is not None
    broker.key_file.read_bytes()  # where there is none, one would be made
    pem = broker.certificate_file.read_bytes()
    check_certificate(pem, broker.key_file, device)
    until = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    return f"the certificate of {device} is valid until {until:%Y-%m-%d}"


def _factory(config: Config) -> Iterator[str]:
    folders = {name: each.factory for name, each in config.instances.items() if each.factory is not None}
    for name, folder in folders.items():
        (folder / "manifest.suit").read_bytes()
        yield f"{name}: {folder}"
    if not folders:
        yield "none"


def _group_keys(config: Config) -> Iterator[str]:
    found = sorted(config.group_keys.glob(PATTERN))
    for path in found:
        try:
            key = read_group_key(path)
        except Refused as error:
            raise _Missing(f"{path}: {error}") from error
        others = "" if not path.stat().st_mode & 0o077 else ", which others than its owner can read"
        yield f"{path}: key {key.key_id.hex()}{others}"
    if not found:
        yield "none: modules that are encrypted for a group are not taken"


def _confinement(config: Config) -> Iterator[str]:
    measures = measures_here(config.worker_users[0])
    missing = lacking(measures)
    if not missing:
        yield "modules are confined by all measures"
        return
    words = f"modules are not confined by {', '.join(missing)}"
    if config.confinement_required and intolerable(measures, root=os.geteuid() == 0):
        raise _Missing(f'{words}: none will run, because [policy] confinement is "required"')
    yield words


def _devices(config: Config) -> Iterator[str]:
    for granted in (config.grants, *(each.grants for each in config.instances.values() if each.grants is not None)):
        yield from _granted(granted.items)


def _granted(granted: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    gpio, serial, wasi = (granted.get(name, {}) for name in ("gpio", "serial", "wasi"))
    lines = [f"/dev/{split_line(name)[0]}" for name in (*gpio.get("inputs", ()), *gpio.get("outputs", ()))]
    ports = [split_port(name)[0] for name in serial.get("ports", ())]
    for package, paths in (("gpiod", lines), ("serial", ports)):
        if paths and importlib.util.find_spec(package) is None:
            raise _Missing(f"{', '.join(paths)}: Python's package {package} is not installed")
    folders = [*wasi.get("read", ()), *wasi.get("write", ())]
    for each in (*lines, *ports):
        if not stat.S_ISCHR(Path(each).stat().st_mode):
            raise _Missing(f"{each}: no device")
    _check_folders(folders, wasi.get("write", ()))
    if found := (*dict.fromkeys(lines), *ports, *folders):
        yield f"{', '.join(found)}: there"


def _check_folders(folders: Sequence[str], writable: Sequence[str]) -> None:
    for each in folders:
        if not stat.S_ISDIR(Path(each).stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), each)
    for each in writable:
        if os.statvfs(each).f_flag & os.ST_RDONLY:
            raise _Missing(f"{each}: its file system is read-only")
        if os.geteuid() == 0 and Path(each).stat().st_uid == 0:
            raise _Missing(f"{each}: it belongs to root: give it to another user")


_LOOKS: dict[str, Callable[[Config], Iterator[str]]] = {
    "trust": _trust,
    "storage": _storage,
    "broker": _broker,
    "factory": _factory,
    "group keys": _group_keys,
    "confinement": _confinement,
    "grants": _devices,
}
