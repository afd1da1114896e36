"""Capabilities: what a module's manifest asks for, and what a board's policy grants. Denied unless asked for *and* granted.

A capability is an interface of the contract (sdk/wit/module.wit) with arguments. Both sides have the same shape, so that one
rule compares them: imports of the module ⊆ manifest ⊆ policy.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ota.formats import hosts, topics, worlds
from ota.formats.fields import Fields, malformed
from ota.formats.reasons import Reason, Refused
from ota.formats.text import nearest

PACKAGE, VERSION = "device:module", "0.1.0"
ABI = f"{PACKAGE}@{VERSION}"
FUNCTIONS = {
    "logging": ("log",),
    "messaging": ("publish",),
    "keyvalue": ("get", "set", "delete"),
    "clock": ("now", "monotonic"),
    "config": ("get",),
    "random": ("get",),
    "gpio": ("read", "write"),
    "serial": ("read", "write"),
    "wasi": (
        "args_get", "args_sizes_get", "clock_res_get", "clock_time_get", "environ_get", "environ_sizes_get",
        "fd_advise", "fd_allocate", "fd_close", "fd_datasync", "fd_fdstat_get", "fd_fdstat_set_flags",
        "fd_fdstat_set_rights", "fd_filestat_get", "fd_filestat_set_size", "fd_filestat_set_times", "fd_pread",
        "fd_prestat_dir_name", "fd_prestat_get", "fd_pwrite", "fd_read", "fd_readdir", "fd_renumber", "fd_seek",
        "fd_sync", "fd_tell", "fd_write", "path_create_directory", "path_filestat_get", "path_filestat_set_times",
        "path_link", "path_open", "path_readlink", "path_remove_directory", "path_rename", "path_symlink",
        "path_unlink_file", "poll_oneoff", "proc_exit", "proc_raise", "random_get", "sched_yield", "sock_accept",
        "sock_recv", "sock_send", "sock_shutdown",
    ),
    "filter": (
        "proxy_add_header_map_value", "proxy_call_foreign_function", "proxy_close_stream", "proxy_continue_stream",
        "proxy_define_metric", "proxy_dequeue_shared_queue", "proxy_done", "proxy_enqueue_shared_queue",
        "proxy_get_buffer_bytes", "proxy_get_buffer_status", "proxy_get_current_time_nanoseconds",
        "proxy_get_header_map_pairs", "proxy_get_header_map_size", "proxy_get_header_map_value", "proxy_get_log_level",
        "proxy_get_metric", "proxy_get_property", "proxy_get_shared_data", "proxy_get_status", "proxy_grpc_call",
        "proxy_grpc_cancel", "proxy_grpc_close", "proxy_grpc_send", "proxy_grpc_stream", "proxy_http_call",
        "proxy_increment_metric", "proxy_log", "proxy_record_metric", "proxy_register_shared_queue",
        "proxy_remove_header_map_value", "proxy_replace_header_map_value", "proxy_resolve_shared_queue",
        "proxy_send_local_response", "proxy_set_buffer_bytes", "proxy_set_effective_context",
        "proxy_set_header_map_pairs", "proxy_set_property", "proxy_set_shared_data",
        "proxy_set_tick_period_milliseconds",
    ),
}  # fmt: skip
WASI_MODULE = "wasi_snapshot_preview1"
COMMAND = "_start"
FILTER_MODULE, FILTER_VERSIONS = "env", ("proxy_abi_version_0_2_0", "proxy_abi_version_0_2_1")
"""proxy-wasm: what its host functions are imported from, and the exports that name the versions of the ABI that a board has."""
EXPORTS = {"events": ("handle",), "startup": ("init",), "timer": ("tick",), "health": ("check",), "state": ("save", "restore")}
FILTER_ALLOCATORS = ("proxy_on_memory_allocate", "malloc")
DEFAULT_QUOTA_BYTES = 16 * 1024
QUOTA_LIMIT_BYTES = 256 * 1024  # all of it travels in one packet when a module begins
DEFAULT_FOLDERS_BYTES, FOLDERS_LIMIT_BYTES = 16 << 20, 1 << 40
_NUMBERS = {
    ("keyvalue", "quota_bytes"): (DEFAULT_QUOTA_BYTES, QUOTA_LIMIT_BYTES),
    ("wasi", "quota_bytes"): (DEFAULT_FOLDERS_BYTES, FOLDERS_LIMIT_BYTES),
}
"""Arguments that are numbers: what they are when nothing is said, and the most."""
_CODES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "logging": (1, {}),
    "messaging": (2, {"publish": 1, "subscribe": 2}),
    "keyvalue": (3, {"quota_bytes": 1}),
    "clock": (4, {}),
    "config": (5, {}),
    "random": (6, {}),
    "gpio": (7, {"inputs": 1, "outputs": 2}),
    "serial": (8, {"ports": 1}),
    "wasi": (9, {"read": 1, "write": 2, "quota_bytes": 3}),
    "filter": (10, {}),
}
"""What manifests call interfaces and their arguments. A number is never used again for another."""
_NAMES = {number: (name, {code: key for key, code in codes.items()}) for name, (number, codes) in _CODES.items()}
TOPICS_REMEMBERED = 256
MAX_FILTERS = 32
NAMED = 16
"""So many imports are named by a refusal."""
FUNCTIONS_NAMED = 3
"""So many functions of an interface are."""


def import_module(interface: str) -> str:
    """The name that core modules import an interface by."""
    if interface in ("wasi", "filter"):
        return WASI_MODULE if interface == "wasi" else FILTER_MODULE
    return f"{PACKAGE}/{interface}@{VERSION}"


def export_name(interface: str, function: str) -> str:
    """The name that core modules export a function by."""
    return f"{PACKAGE}/{interface}@{VERSION}#{function}"


@dataclass(frozen=True)
class Capabilities:
    """Interfaces by name, each with its arguments: lists of texts as tuples (topic filters, GPIO lines, serial ports, folders),
    quotas in bytes as numbers.
    """

    items: Mapping[str, Mapping[str, Any]]

    @classmethod
    def parse(cls, value: Any, what: str) -> "Capabilities":
        """From TOML.

        Raises Refused MALFORMED, and MEMBER_UNKNOWN naming the interface or argument that is not known.
        """
        if not isinstance(value, Mapping):
            raise malformed(what, "capabilities are not a map")
        return cls({name: _arguments(name, arguments, what) for name, arguments in value.items()})

    @classmethod
    def from_numbers(cls, value: Mapping[Any, Any], what: str) -> "Capabilities":
        """From a manifest's numbers; one that a board has kept since schema 1 to 3 has names. Raises as `parse`."""
        if value and all(isinstance(key, str) for key in value):
            return cls.parse(value, what)
        named = {}
        for number, arguments in Fields(value, what, _NAMES).members():
            name, keys = _NAMES[number]
            named[name] = {keys[code]: each for code, each in Fields(arguments, f"{what}: {name}", keys).members()}
        return cls.parse(named, what)

    def to_numbers(self) -> dict[int, Any]:
        """For manifests."""
        return {
            _CODES[name][0]: {_CODES[name][1][key]: value for key, value in arguments.items()}
            for name, arguments in self.to_value().items()
        }

    def to_value(self) -> dict[str, Any]:
        """For people."""
        return {
            name: {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
            for name, arguments in self.items.items()
        }

    def missing_from(self, granted: "Capabilities") -> list[str]:
        """What these ask for that `granted` does not give, each as a phrase for an error."""
        missing = []
        for name, arguments in self.items.items():
            if name not in granted.items:
                missing.append(name)
                continue
            given = granted.items[name]
            for key, wanted in arguments.items():
                if isinstance(wanted, tuple):
                    covers, wide = _LISTS[name][key][1], given.get(key, ())
                    missing += [f"{name}.{key} {each}" for each in wanted if not any(covers(one, each) for one in wide)]
                elif wanted > given.get(key, 0):
                    missing.append(f"{name}.{key} {wanted} (granted {given.get(key, 0)})")
        return missing

    def filters(self, direction: str) -> tuple[str, ...]:
        """The topic filters for "publish" or "subscribe"."""
        found: tuple[str, ...] = self.items.get("messaging", {}).get(direction, ())
        return found

    def number(self, name: str, key: str) -> int:
        """An argument that is a number; 0 without the capability."""
        found: int = self.items.get(name, {}).get(key, 0)
        return found

    @property
    def exclusive(self) -> tuple[str, ...]:
        """Devices that one program at a time can have open: paths of serial ports, and of GPIO chips with ":offset" behind them."""
        gpio, serial = self.items.get("gpio", {}), self.items.get("serial", {})
        lines = (*gpio.get("inputs", ()), *gpio.get("outputs", ()))
        return (*(f"/dev/{each}" for each in lines), *(split_port(each)[0] for each in serial.get("ports", ())))

    @property
    def quota_bytes(self) -> int:
        """Storage for keys and values."""
        return self.number("keyvalue", "quota_bytes")


def split_line(name: str) -> tuple[str, int]:
    """Chip and offset of a GPIO line such as "gpiochip0:17"."""
    chip, _, offset = name.partition(":")
    return chip, int(offset)


def split_port(name: str) -> tuple[str, int]:
    """Path and baud rate of a serial port such as "/dev/ttyUSB0:115200"."""
    path, _, baud_rate = name.rpartition(":")
    return path, int(baud_rate)


def _is_line(text: str) -> bool:
    return re.fullmatch(r"gpiochip\d{1,4}:\d{1,5}", text) is not None


def _is_port(text: str) -> bool:
    """Also by names that stay, such as /dev/serial/by-id/usb-1a86_USB2.0-Serial-if00-port0:9600."""
    return len(text) <= 220 and re.fullmatch(r"/dev(?:/[A-Za-z0-9_-][A-Za-z0-9_.:+@-]*)+:[1-9]\d{1,7}", text) is not None


def _is_folder(text: str) -> bool:
    parts = text.split("/")[1:]
    return text.startswith("/") and len(text) <= 200 and all(each not in ("", ".", "..") and each.isprintable() for each in parts)


def _same(granted: str, wanted: str) -> bool:
    return granted == wanted


def _is_within(granted: str, wanted: str) -> bool:
    return wanted == granted or wanted.startswith(granted + "/")


_LISTS: dict[str, dict[str, tuple[Callable[[str], bool], Callable[[str, str], bool], str]]] = {
    "messaging": {
        "publish": (topics.is_filter, topics.covers, f"a topic filter of at most {topics.TOPIC_CHARACTERS} characters"),
        "subscribe": (topics.is_filter, topics.covers, f"a topic filter of at most {topics.TOPIC_CHARACTERS} characters"),
    },
    "gpio": {
        "inputs": (_is_line, _same, "a line such as gpiochip0:17"),
        "outputs": (_is_line, _same, "a line such as gpiochip0:4"),
    },
    "serial": {"ports": (_is_port, _same, "a port with its baud rate such as /dev/ttyUSB0:115200")},
    "wasi": {"read": (_is_folder, _is_within, "an absolute path"), "write": (_is_folder, _is_within, "an absolute path")},
}
"""Arguments that are lists: what an item must be, whether a grant covers what is wanted, and words for an error."""


def _arguments(name: str, value: Any, what: str) -> dict[str, Any]:
    if name not in FUNCTIONS:
        raise Refused(
            Reason.MEMBER_UNKNOWN, f"{what}: capability {name!r} is not one of {', '.join(FUNCTIONS)}{nearest(name, FUNCTIONS)}"
        )
    if not isinstance(value, Mapping):
        raise malformed(what, f"capability {name} is not a map of arguments")
    lists = _LISTS.get(name, {})
    parsed: dict[str, Any] = {}
    for key, argument in value.items():
        if key not in lists and (name, key) not in _NUMBERS:
            near = nearest(str(key), [*lists, *(each for of, each in _NUMBERS if of == name)])
            raise Refused(Reason.MEMBER_UNKNOWN, f"{what}: {name} has no argument {key!r}{near}")
        parsed[key] = _list(name, key, argument, what) if key in lists else _number(name, key, argument, what)
    if name == "keyvalue" or (name == "wasi" and parsed.get("write")):
        parsed.setdefault("quota_bytes", _NUMBERS[name, "quota_bytes"][0])
    return parsed


def _list(name: str, key: str, value: Any, what: str) -> tuple[str, ...]:
    is_one, _, words = _LISTS[name][key]
    if not isinstance(value, list):
        raise malformed(what, f"{name}.{key} is not a list of at most {MAX_FILTERS} texts")
    if len(value) > MAX_FILTERS:
        raise malformed(what, f"{name}.{key} has {len(value)} items, the limit is {MAX_FILTERS}")
    if wrong := [each for each in value if not isinstance(each, str) or not is_one(each)]:
        raise malformed(what, f"{name}.{key} has {str(wrong[0])[:100]!r}, which is not {words}")
    return tuple(value)


def _number(name: str, key: str, value: Any, what: str) -> int:
    limit = _NUMBERS[name, key][1]
    if type(value) is not int or not 0 <= value <= limit:
        raise malformed(what, f"{name}.{key} is not a whole number from 0 to {limit}")
    return value


class TopicGrants:
    """Whether filters allow a topic; what was asked of late is remembered."""

    def __init__(self, filters: Iterable[str]) -> None:
        self._filters = tuple(filters)
        self._known: dict[str, bool] = {}

    def allow(self, topic: str) -> bool:
        """Whether it is a topic, and one of the filters covers it."""
        known = self._known.get(topic)
        if known is None:
            if len(topic) > topics.TOPIC_CHARACTERS:
                return False
            if len(self._known) >= TOPICS_REMEMBERED:
                self._known.clear()
            known = self._known[topic] = topics.is_topic(topic) and any(topics.covers(each, topic) for each in self._filters)
        return known


def check_imports(imports: Iterable[tuple[str, str]], declared: Capabilities) -> None:
    """Every import (module, name) is a function of a declared capability.

    Raises Refused IMPORT_UNDECLARED that names each one that is not, the first NAMED of them.
    """
    missing = [each for each in imports if capability_of(*each) not in declared.items]
    if missing:
        told = "; ".join((named(missing), *what_to_do(missing)))
        raise Refused(Reason.IMPORT_UNDECLARED, f"the module imports what its manifest does not declare: {told}")


def named(imports: Iterable[tuple[str, str]]) -> str:
    """Imports for people, the first NAMED. Of an interface with more than FUNCTIONS_NAMED it says how many."""
    by_module: dict[str, list[str]] = {}
    for module, function in imports:
        by_module.setdefault(module, []).append(function)
    said: list[str] = []
    for module, functions in by_module.items():
        if len(functions) > FUNCTIONS_NAMED and worlds.parse(module) is not None:
            said.append(f"{module} ({len(functions)} functions)")
        else:
            said += (f"{module}.{function}" for function in functions)
    return ", ".join(said[:NAMED]) + (f" and {len(said) - NAMED} more" if len(said) > NAMED else "")


def what_to_do(missing: Iterable[tuple[str, str]]) -> Iterator[str]:
    """About imports: the capabilities that cover them; of those by the Component Model's names why boards have no such thing; of
    those that are meant for another host what makes a module without them.
    """
    missing = list(missing)
    named = [each for each in missing if worlds.parse(each[0]) is not None]
    if wanted := sorted({needed for each in missing if (needed := capability_of(*each))}):
        yield f"ask for {', '.join(wanted)} in [capabilities]"
    unknown = [each for each in named if capability_of(*each) is None and not own_interface(each[0])]
    why: dict[str, set[str]] = {}
    for module, name in unknown:
        why.setdefault(worlds.refusal(module, name), set()).add(module)
    yield from sorted(f"{', '.join(sorted(modules))}: {text}" for text, modules in why.items() if text)
    yield from hosts.explained(each for each in missing if capability_of(*each) is None)


def capability_of(module: str, function: str) -> str | None:
    """The capability that covers an import, None for what no board has."""
    if ours := own_interface(module):
        return ours if function in FUNCTIONS[ours] else None
    found = worlds.interface_of(module)
    return found.capability if found is not None and worlds.is_known(module, function) else None


def unknown_imports(imports: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What no board has."""
    return [each for each in imports if capability_of(*each) is None]


def own_interface(module: str) -> str:
    """The capability whose own functions are imported from a module, in either way of writing; "" for another's."""
    if module in (WASI_MODULE, FILTER_MODULE):
        return "wasi" if module == WASI_MODULE else "filter"
    name = worlds.parse(module)
    if name is None or name.package != PACKAGE or not name.has(VERSION):
        return ""
    interface = name.name.removeprefix(f"{PACKAGE}/")
    return interface if interface in FUNCTIONS and interface not in ("wasi", "filter") else ""


def check_granted(declared: Capabilities, granted: Capabilities) -> None:
    """Raises Refused CAPABILITY_DENIED that names each capability the board's policy does not grant."""
    missing = declared.missing_from(granted)
    if missing:
        raise Refused(Reason.CAPABILITY_DENIED, f"the board does not grant: {', '.join(sorted(missing))}")


def check_allowed(imports: Iterable[tuple[str, str]], declared: Capabilities, granted: Capabilities) -> None:
    """Imports are declared, and what is declared is granted. Raises Refused that names all that is not, in both ways at once."""
    try:
        check_imports(imports, declared)
    except Refused as undeclared:
        try:
            check_granted(declared, granted)
        except Refused as denied:
            raise Refused(undeclared.reason, f"{undeclared.detail}; {denied.detail}") from None
        raise
    check_granted(declared, granted)


def check_exports(exports: Iterable[str], *, is_filter: bool = False) -> frozenset[str]:
    """The interfaces of the contract that a module with these exports has.

    A filter of proxy-wasm has `events`, and `timer` where it takes ticks.

    Raises Refused EXPORT_MISSING when `events`, the allocator or the memory is missing, or an interface is there in part.
    """
    names = set(exports)
    if is_filter:
        return _check_filter(names)
    plain = plain_exports(names)
    found = set()
    for interface, functions in EXPORTS.items():
        present = [function for function in functions if f"{interface}.{function}" in plain.functions]
        if present and len(present) < len(functions):
            raise Refused(Reason.EXPORT_MISSING, f"the module exports {interface} in part: only {', '.join(present)}")
        if present:
            found.add(interface)
    needed = {export_name("events", "handle"): "events" in found, "cabi_realloc": plain.allocator, "memory": plain.memory}
    missing = [name for name, there in needed.items() if not there]
    if missing:
        told = f"the module does not export {', '.join(missing)}"
        if not names.isdisjoint(FILTER_VERSIONS):
            told = "the module is a filter of proxy-wasm: its manifest must ask for the capability filter"
        elif others := worlds.other_exports(names, PACKAGE):
            told += f"; it exports {', '.join(others[:3])}, which no board calls"
        if COMMAND in names or worlds.run_exports(names):
            told += "; commands run under `ota run` only: boards hand events to modules"
        raise Refused(Reason.EXPORT_MISSING, told)
    return frozenset(found)


def plain_exports(exports: Iterable[str]) -> worlds.Plain:
    """What a module exports of the contract, by whatever names."""
    return worlds.plain_exports(exports, PACKAGE, VERSION)


def _check_filter(names: set[str]) -> frozenset[str]:
    if names.isdisjoint(FILTER_VERSIONS):
        found = ", ".join(sorted(each for each in names if each.startswith("proxy_abi_version_")))[:200] or "no version"
        raise Refused(Reason.EXPORT_MISSING, f"the filter exports {found}, the board has {', '.join(FILTER_VERSIONS)}")
    missing = [each for each in ("proxy_on_context_create", "memory") if each not in names]
    if names.isdisjoint(FILTER_ALLOCATORS):
        missing.append(" or ".join(FILTER_ALLOCATORS))
    if missing:
        raise Refused(Reason.EXPORT_MISSING, f"the filter does not export {', '.join(missing)}")
    return frozenset(("events", "timer") if "proxy_on_tick" in names else ("events",))


def interfaces_of(imports: Iterable[tuple[str, str]]) -> list[str]:
    """The capabilities that functions are imported from. `env` is a name for many things; a filter's functions are known."""
    found = set()
    for module, function in imports:
        interface = worlds.interface_of(module)
        if interface is not None:
            found.add(interface.capability)
        elif module != FILTER_MODULE or function in FUNCTIONS["filter"]:
            found.add(own_interface(module))
    return [name for name in FUNCTIONS if name in found]
