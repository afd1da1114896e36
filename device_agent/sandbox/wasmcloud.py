"""What components for wasmCloud import: messaging, logging, key-value buckets and configuration, over the contract's own.

A subject is a topic. A bucket NAME is the keys "NAME/…" of the module's store, within its quota. docs/wasmcloud.md has the table.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from device_agent.channel.frames import TEXT_LIMIT
from device_agent.sandbox.signatures import Failure
from device_agent.sandbox.wasi2_io import Resource
from ota.formats.interfaces import LEVELS

__all__ = ["Atomics", "Batch", "Configuration", "Consumer", "Keys", "Logging", "Store", "hosts"]

NO_REQUEST = "a board answers no request within an event: publish it with a reply-to, and take the answer as a message"
_NO_SUCH_STORE = (0, None)
_NUMBER = re.compile(rb"-?[0-9]{1,20}")
_LARGEST = {"0.2.0-draft": (0, (1 << 64) - 1), "0.2.0-draft2": (-(1 << 63), (1 << 63) - 1)}


class Keys(Protocol):
    """The module's store."""

    def kept(self, key: str) -> bytes | None:
        """A value, with what the event in hand has written."""

    def put(self, key: str, value: bytes | None) -> str:
        """Writes it, None deletes it; why not, "" where it was done."""

    def names(self) -> Iterable[str]:
        """Of all keys."""


class Consumer:
    """wasmcloud:messaging/consumer."""

    def __init__(self, send: Callable[[str, bytes, str | None], str]) -> None:
        """`send` publishes once the event has been handled: topic, payload, the topic of the answer if one is waited for.

        It answers why not, "" where it will.
        """
        self._send = send

    def publish(self, message: tuple[str, bytes, str | None]) -> None:
        """Raises Failure: why not."""
        if why := self._send(*message):
            raise Failure(why)

    def request(self, subject: str, body: bytes, timeout_ms: int) -> None:
        """Raises Failure, always: handlers do not wait for each other."""
        raise Failure(NO_REQUEST)


class Logging:
    """wasi:logging/logging."""

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self._log = log

    def log(self, level: int, context: str, message: str) -> None:
        """`critical` is an error to us."""
        text = f"{context}: {message}" if context else message
        self._log(LEVELS[min(level, len(LEVELS) - 1)], text[:TEXT_LIMIT])


class Configuration:
    """wasi:config/store and wasi:config/runtime."""

    def __init__(self, config: Mapping[str, str]) -> None:
        self._config = config

    def get(self, key: str) -> str | None:
        """None for a key that nobody has set."""
        return self._config.get(key)

    def get_all(self) -> list[tuple[str, str]]:
        """By key."""
        return sorted(self._config.items())


def _refused(why: str) -> Failure:
    return Failure((2, why))


class Bucket(Resource):
    """The keys that begin with its name."""

    resource = "bucket"

    def __init__(self, keys: Keys, name: str) -> None:
        self._keys, self._prefix = keys, f"{name}/"

    def get(self, key: str) -> bytes | None:
        """None for a key that is not there."""
        return self._keys.kept(self._prefix + key)

    def put(self, key: str, value: bytes | None) -> None:
        """Raises Failure, such as for a quota that is used up."""
        if why := self._keys.put(self._prefix + key, value):
            raise _refused(why)

    def names(self) -> list[str]:
        """Of its keys, sorted."""
        return sorted(each.removeprefix(self._prefix) for each in self._keys.names() if each.startswith(self._prefix))


class Store:
    """wasi:keyvalue/store. All keys fit into one answer, so that there are no cursors."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def open(self, name: str) -> Bucket:
        """Any name without a slash. Raises Failure."""
        if "/" in name:
            raise Failure(_NO_SUCH_STORE)
        return Bucket(self._keys, name)

    def bucket_get(self, bucket: Bucket, key: str) -> bytes | None:
        """None for a key that is not there."""
        return bucket.get(key)

    def bucket_set(self, bucket: Bucket, key: str, value: bytes) -> None:
        """Raises Failure."""
        bucket.put(key, value)

    def bucket_delete(self, bucket: Bucket, key: str) -> None:
        """Also of a key that is not there. Raises Failure."""
        bucket.put(key, None)

    def bucket_exists(self, bucket: Bucket, key: str) -> bool:
        """Whether a key is there."""
        return bucket.get(key) is not None

    def bucket_list_keys(self, bucket: Bucket, cursor: int | str | None) -> tuple[list[str], None]:
        """All of them. Raises Failure for a cursor, which nobody was given."""
        if cursor is not None:
            raise _refused(f"there is no cursor {cursor}")
        return bucket.names(), None


class Cas(Resource):
    """A key, and the value that it had."""

    resource = "cas"

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key = bucket, key
        self.before = bucket.get(key)


class Atomics:
    """wasi:keyvalue/atomics. A number is kept as decimal text. Nothing comes between the calls of one event."""

    def __init__(self, version: str) -> None:
        self._least, self._largest = _LARGEST[version]

    def increment(self, bucket: Bucket, key: str, delta: int) -> int:
        """The new value; a key that is not there was 0. Raises Failure."""
        before = bucket.get(key) or b"0"
        if not _NUMBER.fullmatch(before):
            raise _refused("the value is no number")
        value = int(before) + delta
        if not self._least <= value <= self._largest:
            raise _refused("the number is too large")
        bucket.put(key, b"%d" % value)
        return value

    def cas_new(self, bucket: Bucket, key: str) -> Cas:
        """Remembers the value that a key has."""
        return Cas(bucket, key)

    def cas_current(self, cas: Cas) -> bytes | None:
        """The value that it remembers."""
        return cas.before

    def swap(self, cas: Cas, value: bytes) -> None:
        """Raises Failure: cas-failed with a new one, if the value is another by now; store-error."""
        if cas.bucket.get(cas.key) != cas.before:
            raise Failure((1, Cas(cas.bucket, cas.key)))
        try:
            cas.bucket.put(cas.key, value)
        except Failure as failure:
            raise Failure((0, failure.payload)) from None


class Batch:
    """wasi:keyvalue/batch. Written one after the other: what comes before a failure is written."""

    def get_many(self, bucket: Bucket, keys: Sequence[str]) -> list[tuple[str, bytes] | None]:
        """In the order of the keys; None for one that is not there."""
        found = ((key, bucket.get(key)) for key in keys)
        return [None if value is None else (key, value) for key, value in found]

    def set_many(self, bucket: Bucket, pairs: Sequence[tuple[str, bytes]]) -> None:
        """Raises Failure."""
        for key, value in pairs:
            bucket.put(key, value)

    def delete_many(self, bucket: Bucket, keys: Sequence[str]) -> None:
        """Raises Failure."""
        for key in keys:
            bucket.put(key, None)


def hosts(
    keys: Keys, send: Callable[[str, bytes, str | None], str], log: Callable[[str, str], None], config: Mapping[str, str]
) -> dict[str, Any]:
    """What answers for each of these interfaces; the drafts of one differ in what they can count."""
    configuration = Configuration(config)
    return {
        "wasmcloud:messaging/consumer": Consumer(send),
        "wasi:logging/logging": Logging(log),
        "wasi:config/store": configuration,
        "wasi:config/runtime": configuration,
        "wasi:keyvalue/store": Store(keys),
        "wasi:keyvalue/batch": Batch(),
        **{f"wasi:keyvalue/atomics@{version}": Atomics(version) for version in _LARGEST},
    }
