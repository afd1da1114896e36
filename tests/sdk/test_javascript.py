"""Scripts in JavaScript and TypeScript as modules: the whole contract, their errors, their limits."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest

from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.errors import ModuleError
from ota.author import engine as engines
from ota.author.build import describe
from ota.author.engine import CAPABILITIES, EngineError, engine
from ota.author.javascript import ScriptError, compile_script, compiled
from ota.author.kept import cache_folder
from ota.cli.main import main
from ota.formats import wasm
from ota.formats.capabilities import FUNCTIONS
from tests.conftest import ROOT

NPM = ROOT / "build" / "npm" / "node_modules"
PUBLISH = 'import { publish } from "device:module/messaging";\n'
SIMPLE = ("logging", "messaging")


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("WAMR_OTA_CACHE", str(ROOT / "build" / "cache"))


def described(path: Path, capabilities=SIMPLE, pages: int = 32, stack: int = 524288) -> None:
    asked = "".join(f"[capabilities.{name}]\n" for name in capabilities if name != "messaging")
    path.with_suffix(".toml").write_text(
        f'[module]\nname = "m"\nversion = "1"\n[limits]\nmemory_pages = {pages}\nstack_bytes = {stack}\n{asked}'
        '[capabilities.messaging]\nsubscribe = ["in/#"]\npublish = ["out/#"]\n'
    )


def module_of(folder: Path, source: str, *, suffix: str = ".js", check: bool = False, **about) -> Path:
    path = folder / f"m{suffix}"
    path.write_text(source)
    described(path, **about)
    if check:
        compiled(path)
    return compile_script(path)


def host_of(module: Path, config=None, log=None) -> ModuleHost:
    content = module.read_bytes()
    seen = log if log is not None else []
    return ModuleHost(content, describe(module, wasm.read(content)), config or {}, lambda *line: seen.append(line))


def handler(body: str) -> str:
    return f"{PUBLISH}export const events = {{ async handle(topic, payload) {{ {body} }} }};\n"


def refusal(tmp_path: Path, source: str, **about) -> tuple[str, list]:
    log: list = []
    host = host_of(module_of(tmp_path, source, **about), log=log)
    with pytest.raises(ModuleError) as error:
        host.handle("in/x", b"")
    host.close()
    return str(error.value), log


EVERYTHING = """
import { log } from "device:module/logging@0.1.0";
import { publish } from "device:module/messaging";
import * as keyvalue from "device:module/keyvalue";
import * as clock from "device:module/clock";
import { get } from "device:module/config";
import * as random from "device:module/random";
import * as gpio from "device:module/gpio";
import * as serial from "device:module/serial";

let count = 0;
const code = f => { try { f(); return "done" } catch (error) { return error.code ?? error.message } };
export const startup = { init(config) { publish("out/init", config); } };
export const timer = { tick(now) { publish("out/tick", String(now)); } };
export const health = { check() { if (count > 1) throw new Error(`${count} is too many`); } };
export const state = { save: () => String(count), restore(bytes) { count = Number(new TextDecoder().decode(bytes)); } };
export const events = {
  handle(topic, payload) {
    count += 1;
    keyvalue.set("a", payload);
    keyvalue.set("b", "text");
    keyvalue.delete("b");
    log("warn", "caf\\u00e9");
    publish("out/values", JSON.stringify([
      topic, new TextDecoder().decode(keyvalue.get("a")), keyvalue.get("b") ?? null, get("colour"), get("none") ?? null,
      random.get(8).length, clock.now() > 1_600_000_000_000_000_000n, clock.monotonic() > 0n, new Date().getFullYear() > 2020,
      code(() => publish("elsewhere", "x")), code(() => publish("out/x", new Uint8Array(70000))),
      code(() => gpio.read("gpiochip0:1")), code(() => gpio.write("gpiochip0:1", true)),
      code(() => serial.read("/dev/ttyUSB0", 10)), code(() => serial.write("/dev/ttyUSB0", "x")),
      code(() => publish("out/x", {})),
    ]));
  },
};
"""


def test_every_interface_of_the_contract(tmp_path):
    log: list = []
    module = module_of(tmp_path, EVERYTHING, capabilities=CAPABILITIES)
    host = host_of(module, {"colour": "blue"}, log)
    assert host.begin(b"0", {}).messages == (("out/init", b"colour=blue"),)
    outcome = host.handle("in/x", "käse".encode())
    expected = (
        '["in/x","käse",null,"blue",null,8,true,true,true,"denied","too-large","denied","denied","denied","denied",'
        '"a string, a Uint8Array or an ArrayBuffer is expected"]'
    )
    assert [(topic, payload.decode()) for topic, payload in outcome.messages] == [("out/values", expected)]
    assert {(each.key, each.value) for each in outcome.writes} == {("a", "käse".encode()), ("b", None)}
    assert log == [("warn", "café")]
    assert host.tick(2**63 + 1).messages == (("out/tick", str(2**63 + 1).encode()),)
    host.check()
    host.handle("in/x", b"")
    with pytest.raises(ModuleError, match="2 is too many"):
        host.check()
    assert host.save() == b"2"
    host.close()
    heir = host_of(module)
    heir.begin(b"41", {})
    heir.handle("in/x", b"")
    assert heir.save() == b"42"
    heir.close()


def test_the_engine_knows_each_function_of_the_contract():
    source = (ROOT / "sdk" / "javascript" / "engine.c").read_text()
    assert set(FUNCTIONS) - set(CAPABILITIES) == {"wasi", "filter"}
    assert [
        f'"{interface}", "{name}"'
        for interface in CAPABILITIES
        for name in FUNCTIONS[interface]
        if f'"{interface}", "{name}"' not in source
    ] == []


def test_the_types_are_made_from_the_wit():
    spec = importlib.util.spec_from_file_location("javascript_types", ROOT / "sdk" / "javascript" / "declarations.py")
    types = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(types)
    assert types.generate(types.WIT.read_text()) == (ROOT / "sdk" / "javascript" / "device-module.d.ts").read_text()


def test_a_module_imports_what_its_description_asks_for_and_nothing_else(tmp_path):
    shape = wasm.read(module_of(tmp_path, handler(""), capabilities=("messaging",)).read_bytes())
    assert shape.imports == (("device:module/messaging@0.1.0", "publish"),)


def test_a_capability_that_is_not_asked_for_says_so(tmp_path):
    source = 'import { read } from "device:module/gpio";\n' + handler('read("gpiochip0:1")')
    assert "the description (.toml) does not ask for the capability gpio, at handle (m.js:3:" in refusal(tmp_path, source)[0]


def test_an_exception_is_told_with_its_text_and_line_and_the_module_goes_on(tmp_path):
    log: list = []
    host = host_of(
        module_of(tmp_path, handler("if (topic === 'in/bad')\n payload.none.there;\n publish('out/x', 'good')")), log=log
    )
    with pytest.raises(ModuleError) as error:
        host.handle("in/bad", b"")
    assert str(error.value) == "TypeError: cannot read property 'there' of undefined, at handle (m.js:3:2)"
    assert log == [("error", str(error.value))]
    assert host.handle("in/x", b"").messages == (("out/x", b"good"),)
    host.close()


def test_an_exception_reaches_the_one_who_runs_it(tmp_path, capfd):
    path = tmp_path / "m.js"
    path.write_text(handler("throw new RangeError('too hot')"))
    described(path)
    assert main(["run", str(path), "--event", "in/x=1"]) == 1
    assert "error=RangeError: too hot, at handle (m.js:2:" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("await null; throw new Error('later')", "Error: later"),
        ("await new Promise(() => {})", "a promise that nothing will settle"),
        ("Promise.reject(new Error('loose'))", "Error: loose"),
        ("const f = () => 1 + f(); f()", "RangeError: Maximum call stack size exceeded"),
        ("const f = () => [1].map(f); f()", "RangeError: Maximum call stack size exceeded"),
        ("const all = []; for (;;) all.push(new Uint8Array(10000))", "out of memory"),
        ("throw {}", "[object Object]"),
        ("throw null", "null"),
        ("throw { toString() { throw 1 } }", "an error without a text"),
        ("throw new Error('ä'.repeat(5000))", "Error: ää"),
        ("await import('./other' + '.js')", "there is no module './other.js'"),
    ],
)
def test_what_goes_wrong_in_a_handler_is_an_error_and_no_trap(tmp_path, body, text):
    assert text in refusal(tmp_path, handler(body))[0]


def test_jobs_run_to_the_end_before_an_event_is_over(tmp_path):
    body = "Promise.resolve().then(() => {}).then(() => publish('out/2', '')); await null; publish('out/1', '')"
    host = host_of(module_of(tmp_path, handler(body)))
    assert sorted(topic for topic, _ in host.handle("in/x", b"").messages) == ["out/1", "out/2"]
    host.close()


def test_after_it_ran_out_of_memory_it_goes_on(tmp_path):
    body = "if (payload.length) return publish('out/x', 'good'); const all = []; for (;;) all.push(new Uint8Array(10000))"
    host = host_of(module_of(tmp_path, handler(body)))
    for _ in range(3):
        with pytest.raises(ModuleError, match="out of memory"):
            host.handle("in/x", b"")
        assert host.handle("in/x", b"1").messages == (("out/x", b"good"),)
    host.close()


def test_text_with_half_a_pair_is_valid_for_the_host(tmp_path):
    log: list = []
    host = host_of(module_of(tmp_path, handler("console.log('a\\ud800b'); publish('out/x', '\\udc00')")), log=log)
    assert host.handle("in/x", b"").messages == (("out/x", "\ufffd".encode()),)
    assert log == [("info", "a\ufffdb")]
    host.close()


@pytest.mark.parametrize(
    ("body", "capabilities", "told"),
    [
        ("Date.now()", (), "Date gives 1970"),
        ("new Date", (), "Date gives 1970"),
        ("new Date( ).getTime()", (), "Date gives 1970"),
        ("Math.random()", (), "Math.random() gives the same numbers at each start"),
        ("new Date(5)", (), ""),
        ("1 // Date.now() Math.random()\n", (), ""),
        ("Date.now()", ("clock",), ""),
        ("Math.random()", ("clock",), ""),
        ("Math.random()", ("random",), ""),
    ],
)
def test_a_time_or_a_random_number_without_its_capability_is_told_when_it_is_built(tmp_path, capfd, body, capabilities, told):
    module_of(tmp_path, handler(f"publish('out/x', String({body}))"), capabilities=(*SIMPLE, *capabilities))
    found = capfd.readouterr().err
    assert (told in found) if told else (found == "")


@pytest.mark.parametrize("capabilities", [(), ("random",), ("clock",)], ids=["neither", "random", "clock"])
def test_random_numbers_differ_from_start_to_start_where_a_capability_seeds_them(tmp_path, capabilities):
    module = module_of(tmp_path, handler("publish('out/x', String(Math.random()))"), capabilities=(*SIMPLE, *capabilities))
    found = set()
    for _ in range(3):
        host = host_of(module)
        found.add(host.handle("in/x", b"").messages[0][1])
        host.close()
    assert len(found) == (3 if capabilities else 1)


def test_memory_does_not_grow_from_event_to_event(tmp_path):
    host = host_of(module_of(tmp_path, handler("await null; publish('out/x', payload)")))
    for _ in range(100):
        host.handle("in/x", bytes(5000))
    before = host.memory_bytes
    for _ in range(300):
        host.handle("in/x", bytes(5000))
    assert host.memory_bytes == before
    host.close()


def test_a_limit_that_is_too_small_is_named_before_anything_is_signed(tmp_path):
    with pytest.raises(ScriptError, match=r"m\.js needs memory_pages = \d+ or more in \[limits\], not 4"):
        module_of(tmp_path, handler(""), pages=4)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("export const events = {\n  handle() { let = ; }\n};", "SyntaxError: variable name expected, at m.js:2:18"),
        ("import { publish } from 'device:module/nothing';", "'device:module/nothing'"),
    ],
)
def test_what_does_not_parse_is_refused_when_it_is_built(tmp_path, source, text):
    with pytest.raises(ScriptError) as error:
        module_of(tmp_path, source, check=True)
    assert text in str(error.value)
    assert not (tmp_path / "m.wasm").exists()


def test_a_build_runs_nothing_of_the_script(tmp_path):
    module = module_of(tmp_path, "throw new Error('ran');" + handler(""), check=True)
    with pytest.raises(ModuleError, match=r"Error: ran, at <anonymous> \(m\.js:1:"):
        host_of(module).begin(b"", {})


def test_the_same_script_gives_the_same_bytes_in_any_folder(tmp_path):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(hashlib.sha256(module_of(tmp_path / name, handler("")).read_bytes()).hexdigest())
    assert made[0] == made[1]


def test_typescript_keeps_its_lines_and_those_of_what_it_imports(tmp_path):
    if not (NPM / "esbuild").is_dir():
        pytest.skip("esbuild is not installed: npm was not there when `make test` began")
    (tmp_path / "node_modules").symlink_to(NPM)
    (tmp_path / "other.ts").write_text(
        "interface Much {\n  a: number;\n}\n\nexport function fail(of: Much): never {\n  throw new Error(`no ${of.a}`);\n}\n"
    )
    source = (
        'import type { Events } from "device:module";\nimport { fail } from "./other";\n\ntype Long = {\n  b: string;\n};\n\n'
        "export const events: Events = {\n  handle(topic: string): void {\n"
        "    const it: Long = { b: topic };\n    fail({ a: it.b.length });\n  },\n};\n"
    )
    told, _ = refusal(tmp_path, source, suffix=".ts")
    assert told == "Error: no 4, at fail (other.ts:6), at handle (m.ts:11)"
    first = (tmp_path / "m.wasm").read_bytes()
    assert compiled(tmp_path / "m.ts") == first


def test_typescript_that_does_not_parse_is_refused_with_its_line(tmp_path):
    if not (NPM / "esbuild").is_dir():
        pytest.skip("esbuild is not installed: npm was not there when `make test` began")
    (tmp_path / "node_modules").symlink_to(NPM)
    with pytest.raises(ScriptError, match=r"m\.ts:2:"):
        module_of(tmp_path, "export const events = {\n  handle(: string) {}\n};", suffix=".ts")


def test_without_esbuild_typescript_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ScriptError, match="npm install --save-dev esbuild@"):
        module_of(tmp_path, "export const events = {};", suffix=".ts")


def test_without_a_compiler_the_engine_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("WAMR_OTA_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install 'wamr-ota\[javascript\]'"):
        engine(SIMPLE)


def test_an_engine_in_the_cache_needs_neither_network_nor_compiler(tmp_path, monkeypatch):
    kept = engine(SIMPLE)
    monkeypatch.setattr(engines, "_run", lambda *_: pytest.fail("something was run"))
    assert engine(reversed(SIMPLE)) == kept
    assert cache_folder() == ROOT / "build" / "cache"


def test_sources_that_are_not_the_pinned_ones_are_refused(tmp_path):
    forged = tmp_path / "quickjs_ng.tar.gz"
    forged.write_bytes(b"forged")
    with pytest.raises(EngineError, match="is not quickjs-ng=="):
        engines._unpack(forged, tmp_path)


@pytest.mark.full
def test_the_engine_is_the_same_wherever_it_is_built(tmp_path, monkeypatch):
    kept = engine(SIMPLE)
    monkeypatch.setenv("WAMR_OTA_CACHE", str(tmp_path / "elsewhere"))
    assert engine(SIMPLE) == kept


def test_a_script_is_published_as_a_module_is(tmp_path, capsys):
    path = tmp_path / "m.js"
    path.write_text(handler(""))
    described(path)
    assert main(["-C", str(tmp_path / "w"), "init", "--vendor", "example.com", "--no-passphrase"]) == 0
    assert main(["-C", str(tmp_path / "w"), "build", str(path), "-o", str(tmp_path / "dist")]) == 0
    assert (tmp_path / "dist" / "m-1" / "module.wasm").read_bytes() == compiled(path)


def test_every_command_that_takes_a_module_takes_a_script_and_leaves_nothing_beside_it(tmp_path, capsys):
    path, workspace = tmp_path / "m.js", tmp_path / "w"
    path.write_text(handler(""))
    described(path)
    before = sorted(tmp_path.iterdir())
    assert main(["inspect", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sha256"] == hashlib.sha256(compiled(path)).hexdigest()
    assert main(["sbom", str(path)]) == 0
    bill = json.loads(capsys.readouterr().out)
    assert bill["metadata"]["component"]["hashes"][0]["content"] == shown["sha256"]
    assert sorted(tmp_path.iterdir()) == before
    assert main(["-C", str(workspace), "init", "--vendor", "example.com", "--no-passphrase"]) == 0
    assert main(["-C", str(workspace), "build", str(path), "-o", str(tmp_path / "dist")]) == 0
    assert main(["-C", str(workspace), "rebuild", str(tmp_path / "dist" / "m-1"), str(path), "--check"]) == 0
    path.write_text(handler("") + "let another;")
    assert main(["-C", str(workspace), "rebuild", str(tmp_path / "dist" / "m-1"), str(path), "--check"]) == 1
    assert "not the same: the module" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted([*before, workspace, tmp_path / "dist"])


@pytest.mark.parametrize("command", [["inspect"], ["sbom"], ["-C", "w", "build"], ["-C", "w", "rebuild", "--check", "dist/m-1"]])
def test_a_script_that_does_not_parse_is_refused_by_every_command_with_its_line(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.js"
    path.write_text(handler(""))
    described(path)
    assert main(["-C", "w", "init", "--vendor", "example.com", "--no-passphrase"]) == 0
    assert main(["-C", "w", "build", "m.js"]) == 0
    path.write_text("export const events = {\n  handle() { let = ; }\n};")
    assert main([*command, "m.js"]) == 1
    assert "m.js:2:18" in capsys.readouterr().err


def test_a_script_larger_than_the_limit_is_refused(tmp_path):
    with pytest.raises(ScriptError, match="larger than"):
        module_of(tmp_path, " " * (4 << 20) + " ")
