"""Names on the broker. Everything is retained except telemetry and logs, and everything big is named by its digest."""

from hashlib import sha256

from ota.formats.fields import is_name

PREFIX = "ota/v1"
BUCKET_DIGITS = 3  # 4,096 buckets: a fleet of 100,000 has 24 devices in each
TOPICS_A_PACKET = 32  # of one SUBSCRIBE or UNSUBSCRIBE packet, at most; AWS IoT takes eight and announces nothing
# What a broker may answer, or end a connection with, to a packet of more topics than it takes.
TOO_MANY_TOPICS = frozenset((0x80, 0x81, 0x82, 0x83, 0x95, 0x97))
TOPIC_CHARACTERS = 256  # of a module's topics and filters
ONLINE, OFFLINE = b"1", b"0"


def root(number: int) -> str:
    """Root document number `number`."""
    return f"{PREFIX}/root/{number}"


def desired(group: str) -> str:
    """The deployment of a group."""
    return f"{PREFIX}/group/{_name(group)}/desired"


def manifest(digest: bytes) -> str:
    """A SUIT envelope, by the SHA-256 of its bytes."""
    return f"{PREFIX}/manifest/{digest.hex()}"


def blob_index(digest: bytes) -> str:
    """The chunk index of a blob."""
    return f"{PREFIX}/blob/{digest.hex()}/index"


def blob_chunk(digest: bytes, number: int) -> str:
    """One chunk of a blob, from 0."""
    return f"{PREFIX}/blob/{digest.hex()}/{number}"


def report(device: str) -> str:
    """What a device says of itself; "+" for those of all devices."""
    return f"{PREFIX}/device/{_name(device)}/report"


def online(device: str) -> str:
    """Whether a device is connected: ONLINE, or OFFLINE, which is its will.

    It lies in a bucket by the hash of the name. Brokers cut what a wildcard over all devices brings, but not what one bucket
    brings.
    """
    return f"{PREFIX}/online/{'/'.join(bucket(device))}/{_name(device)}"


def bucket(device: str) -> str:
    """The bucket of a device: the first digits of the SHA-256 of its name."""
    return sha256(device.encode()).hexdigest()[:BUCKET_DIGITS]


def online_in(digits: str) -> str:
    """The filter for the devices whose buckets begin with these digits; "" for all devices."""
    return "/".join([f"{PREFIX}/online", *digits, *"+" * (BUCKET_DIGITS + 1 - len(digits))])


def marker(device: str) -> str:
    """What a device sends to itself, not retained, to learn whether the broker delivers."""
    return f"{PREFIX}/device/{_name(device)}/marker"


def log(device: str) -> str:
    """A device's log records."""
    return f"{PREFIX}/device/{_name(device)}/log"


def telemetry(device: str) -> str:
    """A device's messages."""
    return f"{PREFIX}/device/{_name(device)}/telemetry"


def enrolment_request(token: str) -> str:
    """A board's request for a certificate, by its token's identifier in digits; "+" for those of all boards."""
    return f"{PREFIX}/enrol/{_name(token)}/request"


def enrolment_answer(token: str) -> str:
    """The answer to it."""
    return f"{PREFIX}/enrol/{_name(token)}/answer"


def _name(value: str) -> str:
    if value != "+" and not is_name(value):
        raise ValueError(f"{value!r} can't be a level of a topic")
    return value


def is_filter(value: str) -> bool:
    """Whether text is an MQTT topic filter (MQTT 5, section 4.7) of at most TOPIC_CHARACTERS."""
    levels = value.split("/")
    return (
        0 < len(value) <= TOPIC_CHARACTERS
        and "\0" not in value
        and all("#" not in level or (level == "#" and last == len(levels) - 1) for last, level in enumerate(levels))
        and all("+" not in level or level == "+" for level in levels)
    )


def is_topic(value: str) -> bool:
    """Whether text is a topic name: a filter without wildcards."""
    return is_filter(value) and "#" not in value and "+" not in value


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that the filter (or topic) `narrow` matches is matched by the filter `wide`."""
    wide_levels, narrow_levels = wide.split("/"), narrow.split("/")
    if narrow.startswith("$") and wide[:1] in ("#", "+"):
        return False  # MQTT 5, section 4.7.2
    for index, level in enumerate(wide_levels):
        if level == "#":
            return True
        if index >= len(narrow_levels) or narrow_levels[index] == "#":
            return False
        if level not in ("+", narrow_levels[index]):
            return False
    return len(wide_levels) == len(narrow_levels)
