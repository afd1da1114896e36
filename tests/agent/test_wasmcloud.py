"""What wasmCloud's components import and export: a handler of messages, buckets, configuration, logging."""

import json

import pytest

from device_agent.channel.frames import KeyWrite
from device_agent.command import main
from device_agent.sandbox import wasmcloud
from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.errors import ContractError, ModuleError
from device_agent.sandbox.interfaces import method_name
from ota.formats.capabilities import Capabilities
from ota.formats.interfaces import INTERFACES
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Refused
from tests.support.component_guest import AREA, Guest
from tests.support.wasmcloud_wat import ANSWERS, ASKER, BUCKET, CAPABILITIES, NO, QUESTION, TOLD, asker, handler
from tests.support.wat import CONTRACT, OK, wat

STORE, SECOND = "wasi:keyvalue/store@0.2.0-draft", "wasi:keyvalue/store@0.2.0-draft2"
ATOMICS, ATOMICS_2 = "wasi:keyvalue/atomics@0.2.0-draft", "wasi:keyvalue/atomics@0.2.0-draft2"
BATCH, CONSUMER = "wasi:keyvalue/batch@0.2.0-draft", "wasmcloud:messaging/consumer@0.2.0"
KEYS = {"keyvalue": {"quota_bytes": 1000}}


def functions(*modules):
    """All functions of these."""
    known = {f"{each.name}{f'@{version}' if version else ''}": each for each in INTERFACES for version in each.versions}
    return [(module, name) for module in modules for name in sorted(known[module].names)]


def opened(wasm, config=None):
    logged = []
    description = ModuleDescription("m", "1", Capabilities.parse(CAPABILITIES, "test"))
    host = ModuleHost(wasm, description, config or {}, lambda *each: logged.append(each))
    host.begin(b"", {})
    return host, logged


@pytest.mark.parametrize("canonical", [False, True])
def test_a_handler_handles_messages_as_any_module_does(canonical):
    host, logged = opened(handler(canonical=canonical), {"target": "out/here"})
    assert host.interfaces == {"events"}
    for count in (b"1", b"2"):
        outcome = host.handle("in/door", b"open")
        assert outcome.messages == (("out/here", b"open"),)
        assert outcome.writes == (KeyWrite(f"{BUCKET}/in/door", count),)
    assert logged == [("info", "handler: in/door")] * 2
    with pytest.raises(ModuleError, match=NO):
        host.handle("in/door", b"")
    assert host.handle("in/door", b"x").writes == (KeyWrite(f"{BUCKET}/in/door", b"3"),)


def test_a_message_that_may_not_be_published_is_the_handlers_error():
    host, _ = opened(handler(), {"target": "elsewhere"})
    with pytest.raises(ModuleError, match="the topic is not granted"):
        host.handle("in/door", b"open")


@pytest.mark.parametrize("canonical", [False, True])
def test_a_message_is_answered_where_its_sender_waits(canonical):
    host, _ = opened(handler(canonical=canonical))
    assert host.handle("in/door", b"open?", "out/answers/7").messages == (("out/answers/7", b"open?"),)
    assert host.handle("in/door", b"open?").messages == (("out/default", b"open?"),)
    with pytest.raises(ModuleError, match="the topic is not granted"):
        host.handle("in/door", b"open?", "elsewhere")


def test_ota_run_takes_a_handler(tmp_path, capsys):
    (tmp_path / "counter.wasm").write_bytes(handler())
    (tmp_path / "counter.toml").write_text(
        '[module]\nname = "counter"\nversion = "1.0.0"\n[capabilities.logging]\n[capabilities.config]\n[capabilities.keyvalue]\n'
        '[capabilities.messaging]\nsubscribe = ["in/#"]\npublish = ["out/#"]\n'
    )
    assert main(["run", str(tmp_path / "counter.wasm"), "--json", "--trace", "--event", "in/a=hello"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"what": "publish", "topic": "out/default", "payload": "hello"} in lines
    assert {"what": "keep", "key": "counts/in/a", "value": "1"} in lines
    calls = {each["function"]: (each["arguments"], each.get("result")) for each in lines if each["what"] == "call"}
    assert calls["wasi:keyvalue/atomics.increment"] == (["bucket", "in/a", 1], 1)
    assert calls["wasmcloud:messaging/consumer.publish"] == ([["out/default", "hello", None]], None)


def test_without_a_description_the_capabilities_are_those_that_it_imports(tmp_path, capsys):
    (tmp_path / "counter.wasm").write_bytes(handler())
    assert main(["run", str(tmp_path / "counter.wasm"), "--deny", "keyvalue", "--event", "a=b"]) == 1
    assert "the board does not grant: keyvalue" in capsys.readouterr().err


def test_our_own_events_come_first_where_a_module_has_both():
    name, params = "wasmcloud:messaging/handler@0.2.0#handle-message", "i32 " * 7
    more = f'(func (export "{name}") (param {params}) (result i32) unreachable)'
    host, _ = opened(wat(CONTRACT.format(imports="", data="", body=OK, more=more)))
    assert host.handle("in/a", b"").messages == ()


def test_a_handler_of_another_type_is_refused():
    text = CONTRACT.replace("device:module/events@0.1.0#handle", "wasmcloud:messaging/handler@0.2.0#handle-message")
    with pytest.raises(ContractError, match="handle-message has type"):
        opened(wat(text.format(imports="", data="", body=OK, more="")))


@pytest.mark.parametrize("version", ["0.3.0", "0.2.0-draft", "0.1.0"])
def test_a_handler_of_another_version_is_refused(version):
    text = CONTRACT.replace("device:module/events@0.1.0#handle", f"wasmcloud:messaging/handler@{version}#handle-message")
    with pytest.raises(Refused, match=f"it exports wasmcloud:messaging/handler@{version}, which no board calls"):
        opened(wat(text.format(imports="", data="", body=OK, more="")))


# -- each interface


def test_every_function_of_the_table_is_there():
    hosts = wasmcloud.hosts(None, None, None, {})
    for interface in (each for each in INTERFACES if each.capability != "wasi" and each.functions):
        host = hosts.get(f"{interface.name}@{interface.versions[0]}", hosts.get(interface.name))
        assert [name for name in interface.functions if not callable(getattr(host, method_name(name), None))] == []


@pytest.mark.parametrize("module", ["wasi:logging/logging", "wasi:logging/logging@0.1.0-draft"])
def test_logging_keeps_level_and_context(module):
    guest = Guest([(module, "log")], {"logging": {}})
    guest.call(module, "log", 5, "disk", "on fire")
    guest.call(module, "log", 0, "", "x" * 2000)
    assert guest.logged == [("error", "disk: on fire"), ("trace", "x" * 1000)]
    with pytest.raises(ContractError, match="none of an enum's 6 cases"):
        guest.call(module, "log", 6, "", "")


@pytest.mark.parametrize(
    "module", ["wasi:config/store@0.2.0-draft", "wasi:config/store@0.2.0-rc.1", "wasi:config/runtime@0.2.0-draft"]
)
def test_configuration_is_the_instances(module):
    guest = Guest([(module, "get"), (module, "get-all")], {"config": {}}, config={"b": "2", "a": "eins"})
    guest.call(module, "get", "a")
    assert (guest.unpack("<B3xB"), guest.bytes_of(AREA + 8)) == ((0, 1), b"eins")
    guest.call(module, "get", "c")
    assert guest.unpack("<B3xB") == (0, 0)
    guest.call(module, "get-all")
    at, count = guest.unpack("<4xII")
    assert [guest.bytes_of(at + 8 * each) for each in range(2 * count)] == [b"a", b"eins", b"b", b"2"]


class Bucket:
    """One bucket, opened by a module."""

    def __init__(self, *modules, name="b", quota_bytes=1000):
        self.store = modules[0]
        self.guest = Guest(functions(*modules), {"keyvalue": {"quota_bytes": quota_bytes}})
        self.handle = self.open(name)

    def open(self, name):
        self.guest.call(self.store, "open", name)
        assert self.guest.unpack("<B") == (0,)
        return self.guest.unpack("<4xI")[0]

    def call(self, name, *values, module=None):
        function = name if module else f"[method]bucket.{name}"
        self.guest.call(module or self.store, function, self.handle, *values)
        return self.guest.unpack("<B")[0]

    def get(self, key):
        assert self.call("get", key) == 0
        return self.guest.bytes_of(AREA + 8) if self.guest.unpack("<4xB") == (1,) else None

    def names(self):
        assert self.call("list-keys", 0, 0) == 0
        at, count = self.guest.unpack("<8xII")
        return [self.guest.bytes_of(at + 8 * each) for each in range(count)]


@pytest.mark.parametrize("store", [STORE, SECOND])
def test_a_bucket_keeps_keys_of_its_own(store):
    bucket = Bucket(store)
    assert bucket.call("set", "k", b"v") == 0
    assert bucket.call("set", "a", b"") == 0
    assert (bucket.get("k"), bucket.get("a"), bucket.get("x")) == (b"v", b"", None)
    assert bucket.call("exists", "k") == 0
    assert bucket.guest.unpack("<4x?") == (True,)
    other = bucket.open("other")
    assert bucket.call("delete", "k") == 0
    assert bucket.get("k") is None
    bucket.guest.host._take()
    assert bucket.guest.host._keys == {"b/a": b""}
    if store == STORE:
        assert bucket.names() == [b"a"]
        assert bucket.guest.unpack("<16xB") == (0,)
    bucket.handle = other
    assert bucket.get("a") is None


def test_a_cursor_that_nobody_gave_is_refused():
    bucket = Bucket(STORE)
    assert bucket.call("list-keys", 1, 7) == 1
    assert bucket.guest.bytes_of(AREA + 12) == b"there is no cursor 7"


def test_a_bucket_with_a_slash_in_its_name_is_none():
    guest = Bucket(STORE).guest
    guest.call(STORE, "open", "a/b")
    assert guest.unpack("<B3xB") == (1, 0)


def test_the_quota_bounds_all_buckets_together():
    bucket = Bucket(STORE, quota_bytes=20)
    assert bucket.call("set", "k", b"0123456789") == 0
    bucket.handle = bucket.open("c")
    assert bucket.call("set", "k", b"0123456789") == 1
    assert bucket.guest.unpack("<4xB") == (2,)
    assert bucket.guest.bytes_of(AREA + 8) == b"the quota of 20 bytes is used up"
    assert bucket.call("set", "k" * 300, b"") == 1


def test_numbers_are_counted_as_decimal_text():
    bucket = Bucket(STORE, ATOMICS)
    for delta, value in ((5, 5), (1, 6)):
        assert bucket.call("increment", "n", delta, module=ATOMICS) == 0
        assert bucket.guest.unpack("<8xQ") == (value,)
    assert bucket.get("n") == b"6"
    assert bucket.call("increment", "n", -1, module=ATOMICS) == 1  # 2**64 - 1 and 6
    bucket.call("set", "n", b"six")
    assert bucket.call("increment", "n", 1, module=ATOMICS) == 1
    assert bucket.guest.bytes_of(AREA + 12) == b"the value is no number"


def test_the_second_draft_counts_down_and_swaps():
    bucket = Bucket(SECOND, ATOMICS_2)
    assert bucket.call("increment", "n", -3, module=ATOMICS_2) == 0
    assert bucket.guest.unpack("<8xq") == (-3,)
    guest = bucket.guest
    assert bucket.call("[static]cas.new", "n", module=ATOMICS_2) == 0
    cas = guest.unpack("<4xI")[0]
    guest.call(ATOMICS_2, "[method]cas.current", cas)
    assert guest.bytes_of(AREA + 8) == b"-3"
    bucket.call("set", "n", b"1")
    guest.call(ATOMICS_2, "swap", cas, b"2")
    failed, case, again = guest.unpack("<B3xB3xI")
    assert (failed, case) == (1, 1)
    with pytest.raises(ContractError, match=r"no handle|not of cas"):
        guest.call(ATOMICS_2, "swap", 99, b"2")
    guest.call(ATOMICS_2, "swap", again, b"2")
    assert guest.unpack("<B") == (0,)
    assert bucket.get("n") == b"2"
    assert bucket.call("[static]cas.new", "n", module=ATOMICS_2) == 0
    guest.call(ATOMICS_2, "swap", guest.unpack("<4xI")[0], bytes(2000))
    assert guest.unpack("<B3xB3xB") == (1, 0, 2)  # store-error, other


def test_batches_are_written_and_read_in_order():
    bucket = Bucket(STORE, BATCH)
    guest = bucket.guest

    def texts(*each):
        """Pointers and lengths, at 7000."""
        guest._at = 6000
        guest.memory.write(7000, b"".join(part.to_bytes(4, "little") for one in each for part in guest.text(one)))

    texts(b"one", b"1", b"two", b"")
    assert bucket.call("set-many", 7000, 2, module=BATCH) == 0
    texts(b"two", b"three", b"one")
    assert bucket.call("get-many", 7000, 3, module=BATCH) == 0
    at, count = guest.unpack("<4xII")
    found = []
    for each in range(count):
        there = guest.unpack("<B", at + 20 * each)[0]
        found.append((guest.bytes_of(at + 20 * each + 4), guest.bytes_of(at + 20 * each + 12)) if there else None)
    assert found == [(b"two", b""), None, (b"one", b"1")]
    assert bucket.call("delete-many", 7000, 3, module=BATCH) == 0
    assert bucket.names() == []


def test_a_batch_of_keys_without_end_is_refused():
    """Each of a million keys could be the same long text."""
    bucket = Bucket(STORE, BATCH)
    for at, count in ((0, 0xFFFFFFFF), (8192, 100_000), (131_068, 1)):
        with pytest.raises(ContractError, match=r"hands over more than|memory"):
            bucket.call("get-many", at, count, module=BATCH)


def test_publishing_answers_with_the_reason():
    guest = Guest([(CONSUMER, "publish"), (CONSUMER, "request")], {"messaging": {"publish": ["out/#"]}})

    def why():
        return guest.bytes_of(AREA + 4).decode() if guest.unpack("<B") == (1,) else ""

    guest.call(CONSUMER, "publish", "out/a", b"x", 0, 0, 0)
    assert why() == ""
    assert guest.host._take().messages == (("out/a", b"x"),)
    guest.call(CONSUMER, "publish", "in/a", b"x", 0, 0, 0)
    assert why() == "the topic is not granted"
    guest.call(CONSUMER, "publish", "out/a", bytes(65_537), 0, 0, 0)
    assert why() == "the message is too large"
    guest.call(CONSUMER, "request", "out/a", b"x", 1000)
    assert guest.unpack("<B") == (1,)
    assert guest.bytes_of(AREA + 4).decode() == wasmcloud.NO_REQUEST
    assert guest.host._take().messages == ()


def test_a_message_that_waits_for_an_answer_says_where():
    description = ModuleDescription("m", "1", Capabilities.parse(ASKER, "test"))
    host = ModuleHost(asker(), description, {}, lambda *_: None)
    outcome = host.handle("in/x", b"what?")
    assert (outcome.messages, outcome.reply_to) == (((QUESTION, b"what?"),), {0: ANSWERS})
    outcome = host.handle(ANSWERS, b"that")
    assert (outcome.messages, outcome.reply_to) == (((TOLD, b"that"),), {})


@pytest.mark.parametrize("reply_to", ["out/valve", "local/question", "local/answers/#", "", "local/answers/" + "x" * 300])
def test_an_answer_may_only_go_where_the_module_hears_it(reply_to):
    """Who answers may be granted to write where the one who asks is not."""
    host = ModuleHost(asker(reply_to), ModuleDescription("m", "1", Capabilities.parse(ASKER, "test")), {}, lambda *_: None)
    with pytest.raises(ModuleError, match="the module does not subscribe to the topic of the answer"):
        host.handle("in/x", b"what?")


def test_ota_run_shows_where_an_answer_is_waited_for(tmp_path, capsys):
    (tmp_path / "asker.wasm").write_bytes(asker())
    assert main(["run", str(tmp_path / "asker.wasm"), "--event", "in/a=hello"]) == 0
    assert f"publish  topic={QUESTION}  payload=hello  reply_to={ANSWERS}" in capsys.readouterr().out
