"""Makes device-module.d.ts out of the WIT (sdk/wit/module.wit): what the contract is in TypeScript.

    python sdk/javascript/declarations.py > sdk/javascript/device-module.d.ts

It knows the part of WIT that the contract uses: interfaces of enums and functions. The mapping is that of the component tools for
JavaScript: a result's error is thrown, an option may be undefined, list<u8> is a Uint8Array, u64 a bigint.
"""

import re
import sys
from pathlib import Path

WIT = Path(__file__).parents[1] / "wit" / "module.wit"
TYPES = {"string": "string", "bool": "boolean", "u32": "number", "u64": "bigint", "list<u8>": "Uint8Array"}
HEAD = "// Made by declarations.py from sdk/wit/module.wit. What a module and a board say to each other.\n"
GLOBALS = """
/** Lines of the log; `log` is `info`. */
declare var console: Record<"log" | "trace" | "debug" | "info" | "warn" | "error", (...values: unknown[]) => void>;
declare class TextEncoder {
    readonly encoding: string;
    encode(text?: string): Uint8Array;
    encodeInto(text: string, bytes: Uint8Array): { read: number; written: number };
}
declare class TextDecoder {
    constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
    readonly encoding: string;
    readonly fatal: boolean;
    readonly ignoreBOM: boolean;
    decode(bytes?: ArrayBufferView | ArrayBuffer, options?: { stream?: boolean }): string;
}
"""


def camel(name: str, *, upper: bool = False) -> str:
    """A WIT name as JavaScript writes it."""
    first, *rest = name.split("-")
    return (first.capitalize() if upper else first) + "".join(part.capitalize() for part in rest)


def value(wit: str, *, given: bool = False) -> str:
    """A WIT type in TypeScript. Bytes that are given may be text too."""
    if wit == "list<u8>" and given:
        return "Uint8Array | ArrayBuffer | string"
    if option := re.fullmatch(r"option<(.+)>", wit):
        return f"{value(option[1])} | undefined"
    return TYPES.get(wit) or camel(wit, upper=True)


def function(name: str, parameters: str, result: str, *, exported: bool) -> tuple[str, str]:
    """The signature of a function, and what it throws."""
    named = [each.split(": ") for each in parameters.split(", ") if each]
    told = ", ".join(f"{camel(key)}: {value(wit, given=not exported)}" for key, wit in named)
    outcome = re.fullmatch(r"result<(.+), ([\w-]+)>", result)
    good, thrown = (outcome[1], outcome[2]) if outcome else (result, "")
    returned = "void" if good in {"", "_"} else value(good, given=exported)
    if exported:
        returned = f"{returned} | Promise<{returned}>"
    code = (
        f"an Error whose `code` is a {camel(thrown, upper=True)}" if thrown and thrown != "string" else "an Error" if thrown else ""
    )
    return f"{camel(name)}({told}): {returned};", code


def generate(wit: str) -> str:
    """The declarations for a package of WIT."""
    exported = set(re.findall(r"export (\w+);", wit))
    modules, classes = [], []
    for comments, interface, body in re.findall(r"((?:/// .+\n)+)interface (\w+) \{\n((?:    .*\n)+)\}", wit):
        about = "\n * ".join(comments.removeprefix("/// ").rstrip("\n").split("\n/// "))
        out = interface in exported
        lines = []
        for comment, kind, name, rest in re.findall(r"((?:    /// .+\n)?)    (enum )?([\w-]+)(?:: func)?(.*)", body):
            if kind:
                texts = " | ".join(f'"{each.strip()}"' for each in rest.strip(" {}").split(","))
                lines.append(f"    export type {camel(name, upper=True)} = {texts};")
                continue
            parts = re.fullmatch(r"\((.*)\)(?: -> (.+))?;", rest)
            if parts is None:
                raise SystemExit(f"{interface}.{name}: {rest}")
            signature, thrown = function(name, parts[1], parts[2] or "", exported=out)
            told = " ".join(filter(None, [comment.strip(" /\n"), f"Throws {thrown}." if thrown and not out else ""]))
            if told:
                lines.append(f"    /** {told} */")
            reserved = signature.startswith("delete(")
            lines.append("    " + signature if out else "    " + ("" if reserved else "export function ") + signature)
        if out:
            classes.append(f"/** {about} */\nexport interface {camel(interface, upper=True)} {{\n" + "\n".join(lines) + "\n}\n")
        else:
            text = "\n".join(lines).replace("    delete(", "    function remove(")
            if "function remove(" in text:
                text += "\n    export { remove as delete };"
            modules.append(f'/** {about} */\ndeclare module "device:module/{interface}" {{\n{text}\n}}\n')
    exports = "\n".join(line for each in classes for line in ("    " + text if text else "" for text in each.splitlines()))
    about = "What a module exports: objects of these types, named events, startup, timer, health, state. Only `events` is needed."
    world = f'/** {about} */\ndeclare module "device:module" {{\n{exports}\n}}\n'
    return HEAD + GLOBALS + "\n" + "\n".join([*modules, world])


if __name__ == "__main__":
    sys.stdout.write(generate(WIT.read_text(encoding="utf-8")))
