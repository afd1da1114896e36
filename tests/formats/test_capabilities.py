"""Capabilities: what may be asked for, what a grant covers, and what is said of imports and exports."""

import pytest

from ota.formats import topics
from ota.formats.capabilities import (
    FILTER_VERSIONS,
    FUNCTIONS,
    MAX_FILTERS,
    NAMED,
    TOPICS_REMEMBERED,
    Capabilities,
    TopicGrants,
    check_allowed,
    check_exports,
    check_granted,
    check_imports,
    export_name,
    import_module,
    interfaces_of,
    named,
    own_interface,
    split_line,
    split_port,
    unknown_imports,
    what_to_do,
)
from ota.formats.reasons import Reason, Refused

NONE = Capabilities({})


def parsed(**items: dict) -> Capabilities:
    return Capabilities.parse(items, "test")


def refused(function, *values, **more) -> Refused:
    with pytest.raises(Refused) as refusal:
        function(*values, **more)
    return refusal.value


@pytest.mark.parametrize(
    ("wanted", "granted", "missing"),
    [
        ({"gpio": {"inputs": ["gpiochip0:17"]}}, {"gpio": {"inputs": ["gpiochip0:18"]}}, "gpio.inputs gpiochip0:17"),
        ({"gpio": {"outputs": ["gpiochip0:17"]}}, {"gpio": {"inputs": ["gpiochip0:17"]}}, "gpio.outputs gpiochip0:17"),
        ({"serial": {"ports": ["/dev/ttyS0:9600"]}}, {"serial": {"ports": ["/dev/ttyS0:115200"]}}, "serial.ports /dev/ttyS0:9600"),
        ({"wasi": {"read": ["/srv/data2"]}}, {"wasi": {"read": ["/srv/data"]}}, "wasi.read /srv/data2"),
        (
            {"wasi": {"write": ["/srv/data"]}},
            {"wasi": {"read": ["/srv/data"]}},
            "wasi.quota_bytes 16777216 (granted 0), wasi.write /srv/data",
        ),
        (
            {"wasi": {"write": ["/a"], "quota_bytes": 9}},
            {"wasi": {"write": ["/a"], "quota_bytes": 8}},
            "wasi.quota_bytes 9 (granted 8)",
        ),
        ({"wasi": {"quota_bytes": 1}}, {"wasi": {}}, "wasi.quota_bytes 1 (granted 0)"),
        ({"random": {}, "wasi": {}}, {}, "random, wasi"),
        ({"random": {}, "gpio": {"inputs": ["gpiochip0:1"]}}, {"gpio": {}}, "gpio.inputs gpiochip0:1, random"),
    ],
)
def test_what_the_policy_does_not_grant_is_named(wanted, granted, missing):
    error = refused(check_granted, parsed(**wanted), parsed(**granted))
    assert error.reason is Reason.CAPABILITY_DENIED
    assert str(error).endswith(f"does not grant: {missing}")


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [
        ({"wasi": {"read": ["/srv/data/models"]}}, {"wasi": {"read": ["/srv/data"]}}),
        ({"wasi": {"read": ["/srv/data"]}}, {"wasi": {"read": ["/srv/data"]}}),
        ({"wasi": {"write": ["/a"], "quota_bytes": 8}}, {"wasi": {"write": ["/b", "/a"], "quota_bytes": 8}}),
        ({"gpio": {"inputs": ["gpiochip0:17"]}}, {"gpio": {"inputs": ["gpiochip0:18", "gpiochip0:17"]}}),
        ({"messaging": {"publish": ["out/a"]}}, {"messaging": {"publish": ["in/#", "out/+"]}, "random": {}}),
        ({"keyvalue": {}}, {"keyvalue": {}}),
    ],
)
def test_what_the_policy_grants_is_granted(wanted, granted):
    check_granted(parsed(**wanted), parsed(**granted))


LONGEST = "/dev/" + "a" * (220 - len("/dev/:9600")) + ":9600"


@pytest.mark.parametrize(
    ("name", "key", "one"),
    [
        ("gpio", "inputs", "gpiochip0:1"), ("gpio", "outputs", "gpiochip9999:99999"), ("serial", "ports", "/dev/ttyS0:10"),
        ("serial", "ports", "/dev/serial/by-id/usb-1a86_USB2.0-Serial-if00-port0:99999999"), ("serial", "ports", LONGEST),
        ("wasi", "read", "/srv"), ("wasi", "write", "/srv/..data/a b"), ("wasi", "read", "/" + "a" * 199),
        ("messaging", "publish", "a/b"), ("messaging", "subscribe", "+/#"),
    ],
)  # fmt: skip
def test_an_item_of_a_list_is_taken(name, key, one):
    assert parsed(**{name: {key: [one] * MAX_FILTERS}}).items[name][key] == (one,) * MAX_FILTERS


LINE, OUTPUT = "a line such as gpiochip0:17", "a line such as gpiochip0:4"
PORT, FOLDER = "a port with its baud rate such as /dev/ttyUSB0:115200", "an absolute path"
FILTER = "a topic filter of at most 256 characters"


@pytest.mark.parametrize(
    ("name", "key", "one", "words"),
    [
        ("gpio", "inputs", "/dev/gpiochip0:1", LINE), ("gpio", "outputs", "gpiochip0", OUTPUT),
        ("gpio", "inputs", "gpiochip00000:1", LINE),
        ("gpio", "inputs", "gpiochip0:100000", LINE), ("gpio", "inputs", 17, LINE),
        ("serial", "ports", "/etc/passwd:9600", PORT), ("serial", "ports", "/dev/../etc/x:9600", PORT),
        ("serial", "ports", "/dev/ttyS0", PORT),
        ("serial", "ports", "/dev/ttyS0:0600", PORT), ("serial", "ports", "/dev/ttyS0:1", PORT),
        ("serial", "ports", "/dev/ttyS0:100000000", PORT),
        ("serial", "ports", LONGEST.replace("aa", "aaa", 1), PORT),
        ("wasi", "read", "data", FOLDER), ("wasi", "read", "/srv/../etc", FOLDER), ("wasi", "read", "/", FOLDER),
        ("wasi", "write", "/a/./b", FOLDER),
        ("wasi", "write", "/a//b", FOLDER), ("wasi", "write", "/a\n", FOLDER), ("wasi", "read", "/" + "a" * 200, FOLDER),
        ("messaging", "publish", "a/#/b", FILTER), ("messaging", "subscribe", "", FILTER),
    ],
)  # fmt: skip
def test_an_item_that_makes_no_sense_is_refused_with_what_it_should_be(name, key, one, words):
    error = refused(parsed, **{name: {key: [one]}})
    assert error.reason is Reason.MALFORMED
    assert error.detail == f"test: {name}.{key} has {str(one)[:100]!r}, which is not {words}"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"gpio": {"inputs": "gpiochip0:1"}}, "gpio.inputs is not a list of at most 32 texts"),
        ({"messaging": {"publish": ["a"] * 33}}, "messaging.publish has 33 items, the limit is 32"),
        ({"keyvalue": {"quota_bytes": -1}}, "keyvalue.quota_bytes is not a whole number from 0 to 262144"),
        ({"keyvalue": {"quota_bytes": 262_145}}, "keyvalue.quota_bytes is not a whole number from 0 to 262144"),
        ({"keyvalue": {"quota_bytes": True}}, "keyvalue.quota_bytes is not a whole number from 0 to 262144"),
        ({"wasi": {"quota_bytes": (1 << 40) + 1}}, "wasi.quota_bytes is not a whole number from 0 to 1099511627776"),
        ({"random": []}, "capability random is not a map of arguments"),
    ],
)
def test_an_argument_of_another_form_is_refused(value, told):
    error = refused(Capabilities.parse, value, "test")
    assert (error.reason, error.detail) == (Reason.MALFORMED, f"test: {told}")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"gpio": {"output": []}}, "gpio has no argument 'output' (did you mean outputs?)"),
        ({"wasi": {"sockets": ["x"]}}, "wasi has no argument 'sockets'"),
        ({"wasi": {"quota": 1}}, "wasi has no argument 'quota' (did you mean quota_bytes?)"),
        ({"random": {"quota": 1}}, "random has no argument 'quota'"),
        ({"randon": {}}, f"capability 'randon' is not one of {', '.join(FUNCTIONS)} (did you mean random?)"),
    ],
)
def test_what_there_is_not_is_refused_as_unknown_with_what_may_have_been_meant(value, told):
    error = refused(Capabilities.parse, value, "test")
    assert (error.reason, error.detail) == (Reason.MEMBER_UNKNOWN, f"test: {told}")


def test_quotas_are_there_where_something_is_kept_and_are_as_asked_for():
    assert parsed(keyvalue={}).quota_bytes == 16 * 1024
    assert parsed(keyvalue={"quota_bytes": 262_144}).quota_bytes == 262_144
    assert parsed(keyvalue={"quota_bytes": 0}).quota_bytes == 0
    assert parsed(wasi={"quota_bytes": 1 << 40}).number("wasi", "quota_bytes") == 1 << 40
    assert parsed(wasi={"write": ["/a"]}).number("wasi", "quota_bytes") == 16 << 20
    assert parsed(wasi={"read": ["/a"]}).items["wasi"] == {"read": ("/a",)}
    assert parsed(wasi={"write": []}).items["wasi"] == {"write": ()}
    assert (NONE.quota_bytes, NONE.number("wasi", "quota_bytes"), parsed(wasi={}).number("wasi", "quota_bytes")) == (0, 0, 0)


def test_manifests_have_a_number_for_each_capability_and_argument():
    given = parsed(
        logging={}, messaging={"publish": ["a"], "subscribe": ["b"]}, keyvalue={"quota_bytes": 1}, clock={}, config={}, random={},
        gpio={"inputs": ["gpiochip0:1"], "outputs": ["gpiochip0:2"]}, serial={"ports": ["/dev/ttyS0:9600"]},
        wasi={"read": ["/r"], "write": ["/w"], "quota_bytes": 2}, filter={},
    )  # fmt: skip
    numbers = {
        1: {}, 2: {1: ["a"], 2: ["b"]}, 3: {1: 1}, 4: {}, 5: {}, 6: {}, 7: {1: ["gpiochip0:1"], 2: ["gpiochip0:2"]},
        8: {1: ["/dev/ttyS0:9600"]}, 9: {1: ["/r"], 2: ["/w"], 3: 2}, 10: {},
    }  # fmt: skip
    assert given.to_numbers() == numbers
    assert Capabilities.from_numbers(numbers, "test") == given
    assert Capabilities.from_numbers(given.to_value(), "test") == given  # as manifests of schema 1 to 3 had them


def test_topic_filters_are_found_by_direction():
    given = parsed(messaging={"publish": ["a"], "subscribe": ["b", "c"]})
    assert (given.filters("publish"), given.filters("subscribe")) == (("a",), ("b", "c"))
    assert (NONE.filters("publish"), parsed(messaging={}).filters("subscribe")) == ((), ())


def test_devices_for_one_program_at_a_time_are_lines_and_ports():
    given = parsed(gpio={"inputs": ["gpiochip0:1"], "outputs": ["gpiochip1:2"]}, serial={"ports": ["/dev/ttyS0:9600"]})
    assert given.exclusive == ("/dev/gpiochip0:1", "/dev/gpiochip1:2", "/dev/ttyS0")
    assert (NONE.exclusive, parsed(gpio={}, serial={}).exclusive) == ((), ())
    assert (split_line("gpiochip1:17"), split_port("/dev/a:b:9600")) == (("gpiochip1", 17), ("/dev/a:b", 9600))


def test_names_of_interfaces_are_those_of_the_contract():
    assert import_module("gpio") == "device:module/gpio@0.1.0"
    assert (import_module("wasi"), import_module("filter")) == ("wasi_snapshot_preview1", "env")
    assert export_name("timer", "tick") == "device:module/timer@0.1.0#tick"
    for name in FUNCTIONS:
        assert own_interface(import_module(name)) == name
    for other in ("device:module/gpio@0.2.0", "device:module/filter@0.1.0", "device:module/shop@0.1.0", "a:b/gpio@0.1.0", "x", "",
                  "device:module/wasi@0.1.0"):  # fmt: skip
        assert own_interface(other) == ""


def test_a_grant_allows_topics_and_no_filters():
    grants = TopicGrants(["out/#", "a/+/c"])
    for topic, allowed in (("out/x", True), ("a/b/c", True), ("a/b", False), ("out/#", False), ("", False)):
        assert grants.allow(topic) is allowed
        assert grants.allow(topic) is allowed  # as it is remembered
    assert TopicGrants(["#"]).allow("t" * topics.TOPIC_CHARACTERS)
    assert not TopicGrants(["#"]).allow("t" * (topics.TOPIC_CHARACTERS + 1))


def test_so_many_topics_are_remembered_and_none_that_is_too_long():
    grants = TopicGrants(["#"])
    grants.allow("t" * 1000)
    for number in range(TOPICS_REMEMBERED):
        grants.allow(str(number))
    assert len(grants._known) == TOPICS_REMEMBERED
    grants.allow("one more")
    assert grants._known == {"one more": True}


LOG, GET = ("device:module/logging@0.1.0", "log"), ("device:module/keyvalue@0.1.0", "get")


def test_imports_are_declared_and_granted_or_both_are_told():
    everything = parsed(logging={}, keyvalue={})
    check_allowed([LOG, GET], everything, everything)
    check_imports([], NONE)
    error = refused(check_allowed, [LOG, GET], parsed(logging={}), everything)
    assert (error.reason, error.detail.count("; ")) == (Reason.IMPORT_UNDECLARED, 1)
    assert error.detail.endswith("device:module/keyvalue@0.1.0.get; ask for keyvalue in [capabilities]")
    error = refused(check_allowed, [LOG, GET], parsed(logging={}), NONE)
    assert error.reason is Reason.IMPORT_UNDECLARED
    assert error.detail.endswith("ask for keyvalue in [capabilities]; the board does not grant: logging")
    error = refused(check_allowed, [LOG], parsed(logging={}), NONE)
    assert (error.reason, error.detail) == (Reason.CAPABILITY_DENIED, "the board does not grant: logging")


def test_what_no_board_has_is_told_from_what_is_not_declared():
    assert unknown_imports([LOG, ("env", "x"), ("device:module/logging@0.1.0", "shout")]) == [
        ("env", "x"),
        ("device:module/logging@0.1.0", "shout"),
    ]


def test_so_many_imports_are_named():
    assert named([("env", f"f{number}") for number in range(NAMED)]) == ", ".join(f"env.f{number}" for number in range(NAMED))
    assert named([("env", f"f{number}") for number in range(NAMED + 2)]).endswith(f"env.f{NAMED - 1} and 2 more")
    assert named([("a:b/c", str(number)) for number in range(3)]) == "a:b/c.0, a:b/c.1, a:b/c.2"
    assert named([("a:b/c", str(number)) for number in range(4)]) == "a:b/c (4 functions)"
    assert named([]) == ""


def test_what_helps_is_said_once_for_each_cause():
    said = list(what_to_do([LOG, GET, ("wasi:http/types@0.2.0", "a"), ("device:module/logging@0.1.0", "shout"), ("env", "abort")]))
    assert said[0] == "ask for keyvalue, logging in [capabilities]"
    assert said[1].startswith("wasi:http/types@0.2.0: modules have no HTTP")
    assert said[2].startswith("AssemblyScript's library")
    assert len(said) == 3
    assert list(what_to_do([])) == []


def test_interfaces_are_named_in_the_order_of_the_contract_and_env_only_for_a_filter():
    imports = [
        ("env", "proxy_log"),
        ("env", "abort"),
        GET,
        LOG,
        ("wasi:io/poll@0.2.0", "poll"),
        ("x", "y"),
        ("wasi:nowhere/x", "y"),
    ]
    assert interfaces_of(imports) == ["logging", "keyvalue", "wasi", "filter"]
    assert interfaces_of([("env", "abort")]) == []
    assert interfaces_of([("device:module/logging@0.1.0", "shout")]) == ["logging"]


PLAIN = ["memory", "cabi_realloc", export_name("events", "handle")]
PARTS = {"startup": ("init",), "timer": ("tick",), "health": ("check",), "state": ("save", "restore")}


def test_exports_are_the_interfaces_that_are_whole():
    every = [export_name(name, function) for name, functions in PARTS.items() for function in functions]
    assert check_exports([*PLAIN, *every]) == {"events", *PARTS}
    for name, functions in PARTS.items():
        assert check_exports([*PLAIN, *(export_name(name, each) for each in functions)]) == {"events", name}


@pytest.mark.parametrize(
    ("exports", "told"),
    [
        ([*PLAIN, export_name("state", "save")], "the module exports state in part: only save"),
        ([*PLAIN, export_name("state", "restore")], "the module exports state in part: only restore"),
        (PLAIN[1:], "the module does not export memory"),
        (PLAIN[:1] + PLAIN[2:], "the module does not export cabi_realloc"),
        ([], f"the module does not export {PLAIN[2]}, cabi_realloc, memory"),
        (
            ["memory", FILTER_VERSIONS[0], "a:b/c#d"],
            "the module is a filter of proxy-wasm: its manifest must ask for the capability filter",
        ),
        ([*PLAIN[:2], "a:b/c#d"], f"the module does not export {PLAIN[2]}; it exports a:b/c, which no board calls"),
        (
            [*PLAIN[:2], *(f"a:b/c{number}#d" for number in range(4))],
            f"the module does not export {PLAIN[2]}; it exports a:b/c0, a:b/c1, a:b/c2, which no board calls",
        ),
        (
            [*PLAIN[:2], "_start"],
            f"the module does not export {PLAIN[2]}; commands run under `ota run` only: boards hand events to modules",
        ),
        (
            [*PLAIN[:2], "wasi:cli/run@0.2.0#run"],
            f"the module does not export {PLAIN[2]}; it exports wasi:cli/run@0.2.0, which no board calls"
            "; commands run under `ota run` only: boards hand events to modules",
        ),
    ],
)
def test_what_a_module_lacks_is_told(exports, told):
    error = refused(check_exports, exports)
    assert (error.reason, error.detail) == (Reason.EXPORT_MISSING, told)


def test_of_many_versions_of_a_filter_the_first_are_told():
    many = [f"proxy_abi_version_{number:04}" for number in range(20)]
    told = f"the filter exports {', '.join(many)[:200]}, the board has {', '.join(FILTER_VERSIONS)}"
    assert refused(check_exports, many, is_filter=True).detail == told


A_FILTER = [FILTER_VERSIONS[1], "proxy_on_context_create", "memory", "malloc"]


def test_a_filter_has_events_and_ticks_where_it_takes_them():
    assert check_exports(A_FILTER, is_filter=True) == {"events"}
    assert check_exports([*A_FILTER, "proxy_on_tick"], is_filter=True) == {"events", "timer"}
    assert check_exports([*A_FILTER[:3], "proxy_on_memory_allocate"], is_filter=True) == {"events"}


@pytest.mark.parametrize(
    ("exports", "told"),
    [
        (["memory"], "the filter exports no version, the board has proxy_abi_version_0_2_0, proxy_abi_version_0_2_1"),
        (
            ["proxy_abi_version_0_1_0", "memory", "proxy_abi_version_0_0_1"],
            "the filter exports proxy_abi_version_0_0_1, proxy_abi_version_0_1_0, the board has "
            "proxy_abi_version_0_2_0, proxy_abi_version_0_2_1",
        ),
        (A_FILTER[:3], "the filter does not export proxy_on_memory_allocate or malloc"),
        (A_FILTER[:1] + A_FILTER[2:], "the filter does not export proxy_on_context_create"),
        (A_FILTER[:1], "the filter does not export proxy_on_context_create, memory, proxy_on_memory_allocate or malloc"),
    ],
)
def test_what_a_filter_lacks_is_told(exports, told):
    error = refused(check_exports, exports, is_filter=True)
    assert (error.reason, error.detail) == (Reason.EXPORT_MISSING, told)
