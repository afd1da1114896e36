"""Names of interfaces as core modules have them, which of them boards have, and what is said of the others."""

import pytest

from ota.formats import capabilities, worlds
from ota.formats.capabilities import Capabilities, capability_of, check_exports, check_imports, interfaces_of
from ota.formats.interfaces import HANDLER_TYPE, INTERFACES
from ota.formats.reasons import Reason, Refused
from tests.conftest import ROOT


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as refused:
        function(*values)
    return refused.value


OURS = ["memory", "cabi_realloc", "device:module/events@0.1.0#handle"]
CANONICAL = ["cm32p2_memory", "cm32p2_realloc", "cm32p2|device:module/events@0.1|handle"]


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("wasi:io/poll@0.2.3", "wasi:io/poll", "0.2.3"),
        ("cm32p2|wasi:io/poll@0.2", "wasi:io/poll", "0.2"),
        ("wasi:logging/logging", "wasi:logging/logging", ""),
        ("wasi:config/store@0.2.0-rc.1", "wasi:config/store", "0.2.0-rc.1"),
    ],
)
def test_a_name_is_read(text, name, version):
    found = worlds.parse(text)
    assert (found.name, found.version, found.canonical) == (name, version, text.startswith("cm32p2|"))


@pytest.mark.parametrize("text", ["env", "wasi_snapshot_preview1", "", "wasi:io", "wasi:io/poll@", "[export]wasi:io/poll@0.2.0"])
def test_another_name_is_none(text):
    assert worlds.parse(text) is None


@pytest.mark.parametrize("version", ["0.2.0", "0.2.1", "0.2.9", "0.2.12", "0.2", "0.2.3+build"])
def test_released_versions_are_compatible(version):
    assert capability_of(f"wasi:io/poll@{version}", "poll") == "wasi"


@pytest.mark.parametrize("version", ["0.1.0", "0.3.0", "1.0.0", "0.2.0-rc-2023-11-10", "0.20.0", "0", "0.0.2"])
def test_drafts_candidates_and_other_versions_are_not(version):
    assert capability_of(f"wasi:io/poll@{version}", "poll") is None


def test_our_own_interfaces_have_both_names():
    for module in ("device:module/keyvalue@0.1.0", "cm32p2|device:module/keyvalue@0.1"):
        assert capability_of(module, "get") == "keyvalue"
        assert capability_of(module, "list") is None
        assert interfaces_of([(module, "get")]) == ["keyvalue"]
    assert capability_of("device:module/keyvalue@0.2.0", "get") is None
    assert capability_of("device:module/wasi@0.1.0", "fd_write") is None


def test_dropping_a_resource_has_both_names():
    assert worlds.is_known("wasi:io/poll@0.2.0", "[resource-drop]pollable")
    assert worlds.is_known("cm32p2|wasi:io/poll@0.2", "pollable_drop")
    assert not worlds.is_known("wasi:io/poll@0.2.0", "pollable_drop")


def test_exports_have_both_names():
    assert check_exports(OURS) == check_exports(CANONICAL) == {"events"}
    state = [f"cm32p2|device:module/state@0.1|{each}" for each in ("save", "save_post", "restore")]
    plain = capabilities.plain_exports([*CANONICAL, *state, "cm32p2_initialize"])
    assert plain.functions["state.save"] == state[0]
    assert plain.posts == {"state.save": state[1]}
    assert (plain.allocator, plain.memory, plain.initialiser) == ("cm32p2_realloc", "cm32p2_memory", "cm32p2_initialize")
    assert check_exports([*CANONICAL, *state]) == {"events", "state"}
    assert refusal(check_exports, [*CANONICAL, state[0]]).reason is Reason.EXPORT_MISSING


def test_a_command_or_a_server_is_refused_by_its_name():
    error = refusal(check_exports, ["memory", "cabi_realloc", "wasi:http/incoming-handler@0.2.0#handle", "wasi:cli/run@0.2.3#run"])
    assert error.reason is Reason.EXPORT_MISSING
    assert error.detail.endswith(
        "it exports wasi:cli/run@0.2.3, wasi:http/incoming-handler@0.2.0, which no board calls"
        "; commands run under `ota run` only: boards hand events to modules"
    )


@pytest.mark.parametrize(
    ("module", "function", "told"),
    [
        ("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.start-bind", "modules have no sockets: they exchange messages"),
        ("wasi:http/outgoing-handler@0.2.3", "handle", "modules have no HTTP: they exchange messages"),
        ("wasi:cli/environment@0.3.0", "get-arguments", "no WASI 0.3 (asynchronous): build for wasm32-wasip2"),
        ("wasi:clocks/monotonic-clock@0.3.0-rc-2025-09-16", "now", "no WASI 0.3"),
        ("wasi:io/poll@0.2.0-rc-2023-11-10", "poll", "boards have it in version 0.2.0"),
        ("wasi:io/streams@0.2.0", "[method]output-stream.shout", "boards do not have this function of it"),
        ("acme:things/shop@1.0.0", "buy", "no board has this interface"),
    ],
)
def test_what_no_board_has_is_refused_with_what_to_do(module, function, told):
    error = refusal(check_imports, [(module, function)], Capabilities.parse({"wasi": {}, "messaging": {}}, "test"))
    assert error.reason is Reason.IMPORT_UNDECLARED
    assert f"{module}.{function}; {module}: " in error.detail
    assert told in error.detail


def test_of_an_interface_with_many_functions_their_number_is_said_and_a_reason_is_said_once():
    http = [("wasi:http/types@0.2.3", f"[method]fields.{each}") for each in "abcd"]
    imports = [*http, ("wasi:http/outgoing-handler@0.2.3", "handle"), *(("env", each) for each in "abcd")]
    error = refusal(check_imports, imports, Capabilities.parse({}, "test"))
    assert error.detail.endswith(
        "declare: wasi:http/types@0.2.3 (4 functions), wasi:http/outgoing-handler@0.2.3.handle, env.a, env.b, env.c, env.d"
        "; wasi:http/outgoing-handler@0.2.3, wasi:http/types@0.2.3: modules have no HTTP: they exchange messages"
        " (device:module/messaging, wasmcloud:messaging)"
    )


def test_the_capability_that_is_missing_is_named_once():
    imports = [("wasi:io/poll@0.2.0", "poll"), ("wasi:cli/exit@0.2.0", "exit"), ("device:module/clock@0.1.0", "now")]
    error = refusal(check_imports, imports, Capabilities.parse({}, "test"))
    assert error.detail.endswith("device:module/clock@0.1.0.now; ask for clock, wasi in [capabilities]")
    check_imports(imports, Capabilities.parse({"wasi": {}, "clock": {}}, "test"))


def test_every_interface_has_a_capability_and_a_version_that_it_knows():
    for interface in INTERFACES:
        assert interface.capability in capabilities.FUNCTIONS or not interface.functions
        for version in interface.versions:
            module = f"{interface.name}@{version}" if version else interface.name
            assert worlds.interface_of(module) is interface
            assert all(worlds.is_known(module, name) for name in interface.names)


def test_the_documents_have_every_interface_with_its_versions():
    text = "".join((ROOT / "docs" / name).read_text() for name in ("reference/wasi.md", "wasmcloud.md"))
    for interface in (*INTERFACES, HANDLER_TYPE):
        assert f"`{interface.name}`" in text
        drafts = [each for each in interface.versions if each not in ("", "0.2.0")]
        assert all(each in text.split(f"| `{interface.name}`")[1].splitlines()[0] for each in drafts)
    for package in worlds._ELSEWHERE:
        assert package in text


def test_a_name_that_is_none_of_the_component_model_is_no_interface():
    assert worlds.interface_of("env") is None
    assert worlds.interface_of("wasi_snapshot_preview1") is None
    assert not worlds.is_known("env", "poll")


@pytest.mark.parametrize(
    ("module", "function", "told"),
    [
        ("env", "a", ""),
        ("wasi:io/poll@0.2.0", "poll", ""),
        ("[export]acme:things/shop@1.0.0", "[resource-new]item", "a board takes no resources of a module"),
        ("cm32p2|_ex_acme:things/shop@1", "item_new", "a board takes no resources of a module"),
        ("wasi:logging/logging@0.9.0", "log", "boards have WASI 0.2, and no WASI 0.3 (asynchronous): build for wasm32-wasip2"),
        ("acme:io/poll@0.3.0", "poll", "no board has this interface"),
        ("wasi:messaging/consumer@0.2.0", "x", "use wasmcloud:messaging@0.2.0 or device:module/messaging"),
    ],
)
def test_why_an_import_is_not_there_is_said_where_there_is_something_to_say(module, function, told):
    assert worlds.refusal(module, function) == told


HANDLE = "device:module/events@0.1.0#handle"
TOLD = "wasmcloud:messaging/handler@0.2.0#handle-message"


def test_wasmclouds_handler_takes_the_place_of_ours_where_ours_is_not_there():
    def plain(*names):
        return worlds.plain_exports(names, "device:module", "0.1.0")

    found = plain(TOLD, f"cabi_post_{TOLD}")
    assert (found.functions, found.posts, found.is_handler) == (
        {"events.handle": TOLD},
        {"events.handle": f"cabi_post_{TOLD}"},
        True,
    )
    assert plain(TOLD).posts == {}
    both = plain(TOLD, HANDLE)
    assert (both.functions, both.is_handler) == ({"events.handle": HANDLE}, False)
    for other in (
        "wasmcloud:messaging/handler@0.2.0#other",
        "wasmcloud:messaging/handler@0.3.0#handle-message",
        "acme:messaging/handler@0.2.0#handle-message",
        f"cabi_post_{TOLD}",
        "device:module/events@0.2.0#handle",
        "other:module/events@0.1.0#handle",
        "handle",
    ):
        found = plain(other)
        assert (found.functions, found.is_handler) == ({}, False), other


def test_the_first_of_several_names_for_one_thing_is_taken():
    found = worlds.plain_exports(["cm32p2_memory", "memory", "__wasm_call_ctors", "_initialize"], "device:module", "0.1.0")
    assert (found.allocator, found.memory, found.initialiser) == ("", "memory", "_initialize")


def test_a_command_is_what_exports_run_of_wasi_0_2():
    commands = ["wasi:cli/run@0.2.0#run", "wasi:cli/run@0.2.3#run", "cm32p2|wasi:cli/run@0.2|run"]
    others = [
        "wasi:cli/run@0.3.0#run", "wasi:cli/run@0.2.0#stop", "cabi_post_wasi:cli/run@0.2.0#run", "cm32p2|wasi:cli/run@0.2|run_post",
        "wasi:http/run@0.2.0#run", "env#run", "run",
    ]  # fmt: skip
    assert worlds.run_exports([*commands, *others]) == [
        ("wasi:cli/run@0.2.0", commands[0]),
        ("wasi:cli/run@0.2.3", commands[1]),
        ("wasi:cli/run@0.2", commands[2]),
    ]


def test_interfaces_that_boards_do_not_call_are_listed_once_by_name():
    exports = [HANDLE, "cm32p2|acme:things/shop@1|buy", "cm32p2|acme:things/shop@1|sell", "memory", "acme:a/b#c", "env#x"]
    assert worlds.other_exports(exports, "device:module") == ["acme:a/b", "acme:things/shop@1"]


@pytest.mark.parametrize(
    ("version", "compatible", "others"),
    [
        ("1.0.0", ["1", "1.2", "1.2.3", "1.0.0+build"], ["2.0.0", "0.1.0", "1.0.0-rc.1"]),
        ("0.2.0", ["0.2", "0.2.9"], ["0.3.0", "0.0.2", "0.20.0"]),
        ("0.0.3", ["0.0.3+x"], ["0.0.4", "0.0", "0"]),
        ("0.1.0-draft", ["0.1.0-draft", "0.1.0-draft+x"], ["0.1.0", "0.1.0-draft2"]),
        ("", [""], ["0", "1"]),
    ],
)
def test_versions_are_compatible_as_in_semver(version, compatible, others):
    name = worlds.Name("a:b/c", version, canonical=False)
    assert name.package == "a:b"
    assert all(name.has(each) for each in compatible)
    assert not any(name.has(each) for each in others)
