"""Device trees, as far as it takes to tell which drivers a device needs (Devicetree Specification 0.4, chapters 2 and 5)."""

import lzma
import re
import struct
from collections.abc import Iterator
from pathlib import Path

# Properties that are lists of references with arguments, and what says how many arguments those take.
ARGUMENTS = {"clocks": "clock", "assigned-clocks": "clock", "assigned-clock-parents": "clock", "resets": "reset"}
ARGUMENTS |= {"power-domains": "power-domain", "dmas": "dma", "phys": "phy", "mboxes": "mbox", "interrupts-extended": "interrupt"}
SINGLE = re.compile(r"pinctrl-\d+|.*-supply|phy-handle|interrupt-parent|mmc-pwrseq|firmware|iommus|syscon|.*-syscon")
BEGIN, END, PROPERTY, NOTHING = 1, 2, 3, 4


class Node:
    """One device, its properties as bytes."""

    def __init__(self, name, parent):
        self.name, self.parent, self.properties, self.children = name, parent, {}, []

    @property
    def path(self):
        return "" if self.parent is None else f"{self.parent.path}/{self.name}"

    def words(self, name):
        return [each.decode() for each in self.properties.get(name, b"").split(b"\0") if each]

    def cells(self, name):
        data = self.properties.get(name, b"")
        return struct.unpack(f">{len(data) // 4}I", data) if len(data) % 4 == 0 else ()

    @property
    def enabled(self):
        return self.words("status") in ([], ["okay"], ["ok"])

    def walk(self) -> "Iterator[Node]":
        yield self
        for each in self.children:
            yield from each.walk()


def parse(data: bytes) -> Node:
    """The root of a flattened tree."""
    magic, _, at, strings = struct.unpack_from(">4I", data)
    assert magic == 0xD00DFEED
    root = node = None
    while True:
        (token,) = struct.unpack_from(">I", data, at)
        at += 4
        if token == BEGIN:
            end = data.index(b"\0", at)
            child = Node(data[at:end].decode(), node)
            root, at = root or child, (end + 4) & ~3
            if node is not None:
                node.children.append(child)
            node = child
        elif token == END:
            node = node.parent
        elif token == PROPERTY:
            size, name = struct.unpack_from(">II", data, at)
            key = data[strings + name : data.index(b"\0", strings + name)].decode()
            node.properties[key] = data[at + 8 : at + 8 + size]
            at = (at + 8 + size + 3) & ~3
        elif token != NOTHING:
            return root


def _references(node, handles):
    for name in node.properties:
        cells = node.cells(name)
        kind = ARGUMENTS.get(name) or ("gpio" if re.fullmatch(r"(.*-)?gpios?", name) else "")
        if SINGLE.fullmatch(name):
            yield from (handles[each] for each in cells if each in handles)
        while kind and cells:
            found = handles.get(cells[0])
            if found is not None:
                yield found
            cells = cells[1 + ((found.cells(f"#{kind}-cells") or (0,))[0] if found is not None else 0) :]


def needed_by(root: Node, starts: list[Node]) -> set[Node]:
    """These devices and all that they cannot work without: buses, clocks, supplies, controllers of whatever kind."""
    handles = {each.cells("phandle")[0]: each for each in root.walk() if each.cells("phandle")}
    seen, todo = set(), list(starts)
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [node.parent, *_references(node, handles)]
    return seen


def drivers(base: Path) -> dict[str, set[str]]:
    """Which modules below usr/lib/modules/VERSION say that they are for which compatible device."""
    found: dict[str, set[str]] = {}
    for path in base.rglob("*.ko*"):
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        for each in re.findall(rb"alias=of:N\*T\*C([^*\0]+?)(?:C\*)?\0", content):
            found.setdefault(each.decode(), set()).add(path.name.partition(".")[0].replace("-", "_"))
    return found
