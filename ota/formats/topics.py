"""Names on the broker. Everything is retained except telemetry and logs, and everything big is named by its digest.

A module's own topics are relative to its board. A `Template` says where on the broker they lie.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from ota.formats.fields import is_name

PREFIX = "ota/v1"
BUCKET_DIGITS = 3  # 4,096 buckets: a fleet of 100,000 has 24 devices in each
TOPICS_A_PACKET = 32  # of one SUBSCRIBE or UNSUBSCRIBE packet, at most; AWS IoT takes eight and announces nothing
# What a broker may answer, or end a connection with, to a packet of more topics than it takes.
TOO_MANY_TOPICS = frozenset((0x80, 0x81, 0x82, 0x83, 0x95, 0x97))
_OURS = PREFIX.partition("/")[0]
TOPIC_CHARACTERS = 256  # of a module's topics and filters
TEMPLATE_CHARACTERS = 256
PLACEHOLDERS = ("device", "group", "board", "instance")  # of a template, beside {topic}
LOCAL, SYSTEM = "local", "sys"  # first levels: topics between a board's modules, and of the board's own events; on no broker
ONLINE, OFFLINE = b"1", b"0"


def client_id(device: str) -> str:
    """The identifier of a board's connection, by which a broker knows its session."""
    return f"wamr-ota-{device}"


def root(number: int) -> str:
    """Root document number `number`."""
    return f"{PREFIX}/root/{number}"


def desired(group: str) -> str:
    """The deployment of a group."""
    return f"{PREFIX}/group/{_name(group)}/desired"


def device_desired(device: str) -> str:
    """The deployment of one device, which overrides its group's."""
    return f"{PREFIX}/device/{_name(device)}/desired"


def manifest(digest: bytes) -> str:
    """A SUIT envelope, by the SHA-256 of its bytes."""
    return f"{PREFIX}/manifest/{digest.hex()}"


def blob_index(digest: bytes) -> str:
    """The chunk index of a blob."""
    return f"{PREFIX}/blob/{digest.hex()}/index"


def blob_chunk(digest: bytes, number: int) -> str:
    """One chunk of a blob, from 0."""
    return f"{PREFIX}/blob/{digest.hex()}/{number}"


def group_keys(device: str) -> str:
    """The keys of a device's group, for this device alone."""
    return f"{PREFIX}/device/{_name(device)}/keys"


def report(device: str) -> str:
    """What a device says of itself; "+" for those of all devices."""
    return f"{PREFIX}/device/{_name(device)}/report"


def instance_report(device: str, instance: str) -> str:
    """What a device says of one of its instances."""
    return f"{PREFIX}/device/{_name(device)}/instance/{_name(instance)}/report"


def instance_reports(device: str) -> str:
    """The filter for the reports of all instances of a device."""
    return f"{PREFIX}/device/{_name(device)}/instance/+/+"


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
    """The filter for the devices whose buckets begin with these digits; "" for all devices.

    It has no "+" for the name: some brokers take a dot in a name for the end of a level.
    """
    return "/".join([f"{PREFIX}/online", *digits, "#"])


def marker(device: str) -> str:
    """What a device sends to itself, not retained, to learn whether the broker delivers."""
    return f"{PREFIX}/device/{_name(device)}/marker"


def log(device: str) -> str:
    """A device's log records."""
    return f"{PREFIX}/device/{_name(device)}/log"


def telemetry(device: str) -> str:
    """A device's messages."""
    return f"{PREFIX}/device/{_name(device)}/telemetry"


def enrolment_request(address: str) -> str:
    """A board's request for a certificate, where no certificate opens the broker to it; "+" for those of all boards.

    `address` is `ota.formats.enrolment.address`: nobody who has not read the request can name the topic, and write there.
    """
    return f"{PREFIX}/enrol/{_name(address)}/request"


def enrolment_answer(address: str) -> str:
    """The answer to it."""
    return f"{PREFIX}/enrol/{_name(address)}/answer"


def renewal_request(device: str) -> str:
    """A board's request for its next certificate; "+" for those of all boards."""
    return f"{PREFIX}/device/{_name(device)}/renewal/request"


def renewal_answer(device: str) -> str:
    """The answer to it."""
    return f"{PREFIX}/device/{_name(device)}/renewal/answer"


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
    if "+" not in wide:
        if "#" not in wide:
            return wide == narrow
        if wide != "#":  # its last level
            return narrow.startswith(wide[:-1]) or narrow == wide[:-2]
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


def meet(one: str, other: str) -> bool:
    """Whether there is a topic that both filters match."""
    if (one.startswith("$") or other.startswith("$")) and one[:1] != other[:1]:
        return False  # MQTT 5, section 4.7.2
    levels, others = one.split("/"), other.split("/")
    for level, against in zip(levels, others, strict=False):
        if "#" in (level, against):
            return True
        if level != against and "+" not in (level, against):
            return False
    shorter = min(len(levels), len(others))
    return len(levels) == len(others) or (levels[shorter:] or others[shorter:]) == ["#"]


def is_on_board(topic: str) -> bool:
    """Whether a module's topic or filter is one that no broker ever sees."""
    return topic.partition("/")[0] in (LOCAL, SYSTEM)


def is_for_modules(topic: str) -> bool:
    """Whether a broker's topic may carry what modules say and hear: not one of ours, nor one of the broker's own."""
    return not topic.startswith("$") and topic.partition("/")[0] != _OURS


@dataclass(frozen=True)
class Template:
    """Where a module's topics lie on the broker: a prefix with placeholders, and the topic below it."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Raises ValueError, saying what is wrong."""
        head, topic, rest = text.partition("{topic}")
        if not topic or rest or (head and not head.endswith("/")):
            raise ValueError("{topic} must be its last level")
        for name in re.findall(r"\{([^{}]*)\}", head):
            if name not in PLACEHOLDERS:
                raise ValueError(f"there is no placeholder {{{name}}}; there are {', '.join(PLACEHOLDERS)} and topic")
        plain = re.sub(r"\{[^{}]*\}", "x", head)
        if len(text) > TEMPLATE_CHARACTERS or any(each in plain for each in "{}+#\0"):
            raise ValueError(f"a topic of at most {TEMPLATE_CHARACTERS} characters without + and # is expected")
        if plain and (not is_for_modules(plain) or is_on_board(plain)):
            raise ValueError(f"topics below $, {_OURS}, {LOCAL} and {SYSTEM} are not for the broker, or not for modules")
        return cls(text)

    def prefix(self, names: Mapping[str, str]) -> str:
        """What stands before the topics of modules, with the names of a board and an instance in the place of placeholders.

        Raises ValueError for a name that can't be a level.
        """
        head = self.text.removesuffix("{topic}")
        for each in PLACEHOLDERS:
            if f"{{{each}}}" in head:
                if not is_name(names[each]):
                    raise ValueError(f"{names[each]!r} can't be a level of a topic")
                head = head.replace(f"{{{each}}}", names[each])
        return head


def outward(prefix: str, topic: str) -> str | None:
    """The broker's topic, or filter, of a module's; None for what does not go to or come from a broker."""
    whole = prefix + topic
    return None if is_on_board(topic) or not is_for_modules(whole) else whole


def inward(prefix: str, whole: str) -> str | None:
    """The module's topic of a broker's, as `outward` makes it; None for one that is not below the prefix."""
    topic = whole[len(prefix) :]
    if not topic or not whole.startswith(prefix) or is_on_board(topic) or not is_for_modules(whole):
        return None
    return topic
