"""Mutation testing: one small change to a module at a time, and whether a test notices. `python -m tests.mutants --out FILE`.

Each mutant is a forked process that compiles the changed module in place of the original and runs the tests given for it, until one
fails. A mutant that no test notices survives: either a test is missing, or the change changes nothing that anybody can see;
docs/testing.md lists them with the reason.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SIDE_BY_SIDE = 2
PATIENCE = 5  # times what the tests take without a change: what does not end by then is noticed, as an endless loop
SETS = {
    "formats": (sorted((ROOT / "ota" / "formats").glob("[a-z]*.py")), ("tests/formats",)),
    "updates": (
        [ROOT / "device_agent" / "instance" / f"{name}.py" for name in ("states", "updates", "gate", "sets")],
        tuple(f"tests/agent/test_{name}.py" for name in ("states", "sets", "gate", "conductor", "crash_loop", "desired", "wanted")),
    ),
}
_COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.LShift: ast.RShift}


@dataclass(frozen=True)
class Mutant:
    """A change to one node of a module's tree."""

    file: str
    line: int
    change: str
    node: int  # which node of ast.walk
    way: int  # which of the node's changes


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may become of a node, with words for it."""
    new = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and (other := _COMPARED.get(type(node.ops[0]))):
        new.ops = [other()]
    elif isinstance(node, ast.BoolOp):
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.BinOp) and (other := _COMPUTED.get(type(node.op))):
        new.op = other()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        new = node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        new.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        new.value = node.value + 1
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        new = ast.Pass()
    elif isinstance(node, ast.If):
        new.test = ast.Constant(value=False)
    else:
        return
    yield f"{ast.unparse(node).splitlines()[0]} → {ast.unparse(new).splitlines()[0]}", new


def mutants_of(path: Path) -> list[Mutant]:
    """All of a module's mutants; texts of errors and type hints stay as they are."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    decorations = {each for node in ast.walk(tree) for whole in getattr(node, "decorator_list", ()) for each in ast.walk(whole)}
    for number, node in enumerate(ast.walk(tree)):
        if node in decorations:  # frozen or not: nobody can see
            continue
        for way, (text, _) in enumerate(changes(node)):
            found.append(Mutant(str(path.relative_to(ROOT)), node.lineno, text[:160], number, way))
    return found


def mutated(mutant: Mutant) -> CodeType:
    """The changed module."""
    path = ROOT / mutant.file
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted = next(node for number, node in enumerate(ast.walk(tree)) if number == mutant.node)
    _, new = list(changes(wanted))[mutant.way]

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return ast.copy_location(new, node) if node is wanted else self.generic_visit(node)

    return compile(ast.fix_missing_locations(Replace().visit(tree)), str(path), "exec")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the changed module to whoever imports it."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = mutant.file.removesuffix(".py").replace("/", ".")
        self.code = mutated(mutant)

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.code.co_filename, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def nearest_first(mutant: Mutant, tests: Sequence[str]) -> list[str]:
    """The tests, with those before the others that are named like the changed module: they notice most."""
    name = f"test_{Path(mutant.file).stem}.py"
    own = [f"{each}/{name}" for each in tests if (ROOT / each / name).is_file()]
    return [*own, *tests]


def start(mutant: Mutant | None, tests: Sequence[str]) -> int:
    """Runs the tests in a forked process; this one has imported nothing of what is changed. Returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setpgid(0, 0)
        if mutant:
            quiet = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(quiet, number)
            sys.meta_path.insert(0, Finder(mutant))
            tests = nearest_first(mutant, tests)
        code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=1", *tests]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def unchanged_s(tests: Sequence[str]) -> float:
    """How long the tests take without a change, in seconds. Raises SystemExit when one fails."""
    began = time.monotonic()
    _, status = os.waitpid(start(None, tests), 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("the tests fail without a change, as above: is the native library of these sources? (make test)")
    return time.monotonic() - began


def survivors(mutants: Sequence[Mutant], tests: Sequence[str], limit_s: float) -> list[Mutant]:
    """Those for which all tests pass within a time; SIDE_BY_SIDE at a time."""
    waiting, running, alive = list(mutants), {}, []
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            mutant = waiting.pop(0)
            running[start(mutant, tests)] = (mutant, time.monotonic() + limit_s)
        time.sleep(0.05)
        for pid, (mutant, ends) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done and time.monotonic() < ends:
                continue
            if not done:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            elif os.waitstatus_to_exitcode(status) == 0:
                alive.append(mutant)
                print(f"not noticed: {mutant.file}:{mutant.line}: {mutant.change}", flush=True)
            del running[pid]
            print(f"{len(mutants) - len(waiting) - len(running)} of {len(mutants)} tried", file=sys.stderr, flush=True)
    return alive


def run_set(name: str, modules: Sequence[str], sample: int, seed: int) -> dict[str, Any]:
    """What survives of one set, or of some modules of it."""
    files, tests = SETS[name]
    files = [path for path in files if not modules or path.stem in modules]
    everything = [mutant for path in files for mutant in mutants_of(path)]
    chosen = random.Random(seed).sample(everything, sample) if 0 < sample < len(everything) else everything
    left = sorted(survivors(chosen, tests, PATIENCE * unchanged_s(tests)), key=lambda each: (each.file, each.line))
    return {"all": len(everything), "tried": len(chosen), "survivors": [asdict(each) for each in left]}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the survivors and writes them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Change the code, see whether a test notices.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, action="append", help="what to change; default: everything")
    parser.add_argument("--module", action="append", default=[], help="change only this one of the set, as cose; may be repeated")
    parser.add_argument("--sample", type=int, default=0, help="so many of each set, chosen by --seed; default: all")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    os.environ["HYPOTHESIS_MAX_EXAMPLES"] = "25"
    result = {name: run_set(name, arguments.module, arguments.sample, arguments.seed) for name in arguments.set or SETS}
    for name, found in result.items():
        print(f"{name}: {len(found['survivors'])} of {found['tried']} survive; there are {found['all']}")
        for each in found["survivors"]:
            print(f"  {each['file']}:{each['line']}: {each['change']}")
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
