"""Scripts say in a module what they say in Node.js, bundled or not; their errors name the lines of the sources."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from device_agent.sandbox.errors import ModuleError
from ota.author import javascript
from ota.author.source_map import Place, places
from tests.sdk.test_javascript import NPM, _cache, described, host_of  # noqa: F401  (a fixture)

OTHER = {"other.js": b"export const other = 1;\n"}
IMPORTS = b'import { publish } from "device:module/messaging";\n'
HANDLES = b"\nexport const events = { handle() { publish('out/x', result()); } };\n"
BUNDLED = b"import { other } from './other.js';\nglobalThis.other = other;\n"
ODD = "\u2028e\u2029f\x85g\x0bh\x0ci\x1cj\x1dk\x1el\ufeffm\u200bn\x00o\xa0"
TEXTS = [
    f"`a\nb\r\nc\rd{ODD}`",
    f"'{ODD}\\\r\nz\\\nq\\\u2028w'",
    f"raw`a\nb\r\nc\rd{ODD}\\u0041\\x41\\unope\\\r\n\\\u2028\\``",
    "`x\n// m.js\n// foo\n//bar\n// a b\n/* c */\n//# sourceMappingURL=data:application/json;base64,e30=\ny`",
    "`a${`b${`c${1}\n// d`}\r\n// e`}\u2028// f`",
    "`\\\n// foo\n${raw`// bar\n${'`'}`}`",
    "`a\\`b\\${c}\\\\` + '\\ud83d\\ude00' + `\U0001f600` + '</script><!-- -->'",
    "/[\x85\x0b\x0c\x1c]\xa0/.source + /\\u2028`/.source + /a\\/b/.source",
    "String((function () { /* a\r\n `\u2028 */ return 1 // b\r + 2\n})())",
]
DECODED = """
const shown = make => { try { return make() } catch (error) { return error.name } };
const each = (bytes, options) => {
  const decoder = new TextDecoder("utf-8", options);
  let text = "";
  for (let i = 0; i < bytes.length; i += 2) text += decoder.decode(new Uint8Array(bytes.slice(i, i + 2)), { stream: true });
  return text + decoder.decode();
};
const CASES = [[239, 187, 191, 97], [97, 255, 98], [240, 159, 152, 97], [226, 130], [192, 128], [237, 160, 128], [237, 159, 191],
  [244, 144, 128, 128], [240, 143, 191, 191], [226, 130, 172, 240, 159, 152, 128], [128], [245], [240, 159, 226, 130, 172]];
export function result() {
  const all = CASES.flatMap(bytes => [{}, { fatal: true }, { ignoreBOM: true }].flatMap(options =>
    [shown(() => new TextDecoder("UTF8", options).decode(new Uint8Array(bytes))), shown(() => each(bytes, options))]));
  const into = new Uint8Array(6);
  all.push(new TextDecoder().decode(new DataView(new Uint8Array([120, 121, 122]).buffer, 1)), new TextDecoder().decode());
  all.push(new TextDecoder().decode(new Uint16Array([0x4142])), new TextEncoder().encodeInto("\\u20acabcd", into), [...into]);
  all.push([...new TextEncoder().encode("a\\ud800b")], shown(() => new TextDecoder("latin1x")));
  all.push(shown(() => new TextDecoder().decode("a")));
  return JSON.stringify(all);
}
"""
TEXTS_SCRIPT = (
    "const raw = (parts, ...values) => JSON.stringify([parts, parts.raw, values]);\n"
    "export function result() { return JSON.stringify(["
    + ",\n".join(TEXTS)
    + "].map(text => [...text].map(c => c.codePointAt(0)))) }"
)


def needs_esbuild(folder: Path) -> None:
    if not (NPM / "esbuild").is_dir():
        pytest.skip("esbuild is not installed: npm was not there when `make test` began")
    (folder / "node_modules").symlink_to(NPM)


def compiled(folder: Path, source: bytes, *, bundled: bool) -> Path:
    if bundled:
        needs_esbuild(folder)
    for name, content in {**OTHER, "m.js": source + (BUNDLED if bundled else b"")}.items():
        (folder / name).write_bytes(content)
    described(folder / "m.js")
    return javascript.compile_script(folder / "m.js")


def said_by_node(folder: Path, source: bytes) -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js here")
    (folder / "case.mjs").write_bytes(source)
    script = "import('./case.mjs').then(({ result }) => process.stdout.write(JSON.stringify(result())))"
    done = subprocess.run([node, "-e", script], cwd=folder, capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("bundled", [False, True], ids=["alone", "bundled"])
@pytest.mark.parametrize("script", [TEXTS_SCRIPT, DECODED], ids=["texts", "decoded"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_script_says_what_it_says_in_node(tmp_path, script, bundled, line_end):
    source = re.sub("(?<!\r)\n", line_end, script).encode()
    module = compiled(tmp_path, IMPORTS + source + HANDLES, bundled=bundled)
    host = host_of(module)
    ((_, said),) = host.handle("in/x", b"").messages
    host.close()
    assert said.decode() == said_by_node(tmp_path, source)


LINES = {
    "template": ("export function result() {\n  return `a\nb ${1}\n${globalThis.nothing.x}\n`;\n}", 4),
    "after a template": ("export function result() {\n  const text = `a\n\u2028b\n`;\n  return globalThis.nothing.x;\n}", 6),
    "after a raw one": (
        "const raw = (parts) => parts.raw[0];\nexport function result() {\n  raw`\u2028\x85`;\n  return globalThis.nothing.x;\n}",
        5,
    ),
    "other line ends": ("/* \x85\x0c */\r\n\r\nexport function result() {\r\n  return '\x85' + globalThis.nothing.x;\r\n}", 4),
    "one statement over lines": ("export function result() {\n  return [\n    1,\n    globalThis.nothing.x,\n  ];\n}", 4),
    "a chain": ("const o = { a() { return this } };\nexport function result() {\n  return o\n    .a()\n    .none();\n}", 5),
    "behind letters of many bytes": (
        "export function result() { const ä = '\U0001f600äöü'; return ä +\n  globalThis.nothing.x;\n}",
        2,
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_an_error_in_a_bundle_names_the_line_that_it_was_written_on(tmp_path, case):
    source, line = LINES[case]
    host = host_of(compiled(tmp_path, source.encode() + b"\n" + HANDLES + IMPORTS, bundled=True))
    with pytest.raises(ModuleError) as error:
        host.handle("in/x", b"")
    host.close()
    assert f", at result (m.js:{line})," in str(error.value)


def test_a_function_named_like_a_line_does_not_change_the_line_that_is_told(tmp_path):
    source = b"export const result = { ['m.js:99:1'](text) {\n  return globalThis.nothing.x;\n} }['m.js:99:1'];\n"
    host = host_of(compiled(tmp_path, source + HANDLES + IMPORTS, bundled=True))
    with pytest.raises(ModuleError) as error:
        host.handle("in/x", b"")
    host.close()
    assert ", at m.js:99:1 (m.js:2)," in str(error.value)


def test_places_are_counted_as_the_engine_counts():
    """The engine ends no line at U+2028, and counts columns in bytes; maps do the one and count in UTF-16."""
    mapped = {"sources": ["a/b.ts"], "mappings": "AAAA;AACA,GACA"}
    assert places(mapped, "ä\u2028\U0001f600x y") == (
        Place(1, 1, "b.ts", 1),
        Place(1, 6, "b.ts", 2),
        Place(1, 11, "b.ts", 3),
    )


def test_what_esbuild_warns_of_is_told(tmp_path, capfd):
    compiled(tmp_path, b"export const result = value => value === NaN;\n" + HANDLES + IMPORTS, bundled=True)
    assert "NaN" in capfd.readouterr().err


def test_what_a_script_imports_while_it_runs_is_bundled(tmp_path):
    source = b"export const result = () => import('./other.js').then(({ other }) => String(other));\n"
    needs_esbuild(tmp_path)
    (tmp_path / "other.js").write_bytes(OTHER["other.js"])
    path = tmp_path / "m.js"
    path.write_bytes(source + IMPORTS + b"export const events = { async handle() { publish('out/x', await result()); } };\n")
    described(path)
    host = host_of(javascript.compile_script(path))
    assert host.handle("in/x", b"").messages == (("out/x", b"1"),)
    host.close()


def test_a_log_line_of_what_is_no_json_is_no_error(tmp_path):
    log: list = []
    body = b"const all = { all: 1n }; all.self = all; console.log(all, undefined, Object.create(null)); return ''"
    source = b'import "device:module/logging";\nexport function result() { ' + body + b" }\n"
    host = host_of(compiled(tmp_path, source + HANDLES + IMPORTS, bundled=False), log=log)
    host.handle("in/x", b"")
    host.close()
    assert log == [("info", "[object Object] undefined {}")]
