"""Mutation testing: one small change to a module at a time, and whether a test notices. `python -m tests.mutants --out FILE`.

A change inside a function is made in a process that has run all tests once and noted which lines each of them runs: a fork of it
gets the changed code and runs the tests of that line, until one fails. A change elsewhere (a constant, a default) is made before
anything is imported: a forked process compiles the changed module in place of the original and runs all tests, those named like it
first. A mutant that no test notices survives: either a test is missing, or the change changes nothing that anybody can see;
docs/testing.md lists them with the reason.
"""

import argparse
import ast
import copy
import functools
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import coverage
import pytest
from _pytest.runner import runtestprotocol

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
    inside: bool  # a function's body


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
    bodies = {each for node in ast.walk(tree) for part in _body(node) for each in ast.walk(part)}
    for number, node in enumerate(ast.walk(tree)):
        if node in decorations:  # frozen or not: nobody can see
            continue
        for way, (text, _) in enumerate(changes(node)):
            found.append(Mutant(str(path.relative_to(ROOT)), node.lineno, text[:160], number, way, node in bodies))
    return found


def _body(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Lambda):
        return [node.body]
    return list(node.body) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else []


def node_of(mutant: Mutant, tree: ast.AST | None = None) -> ast.expr | ast.stmt:
    """The node that is changed, of a tree of its module."""
    tree = tree or _tree(mutant.file)
    found = next(node for number, node in enumerate(ast.walk(tree)) if number == mutant.node)
    assert isinstance(found, ast.expr | ast.stmt)
    return found


@functools.cache
def _tree(file: str) -> ast.AST:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def mutated(mutant: Mutant) -> CodeType:
    """The changed module."""
    path = ROOT / mutant.file
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted = node_of(mutant, tree)
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


def start(mutant: Mutant, tests: Sequence[str]) -> int:
    """Runs all tests in a forked process; this one has imported nothing of what is changed. Returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setpgid(0, 0)
        _silence()
        sys.meta_path.insert(0, Finder(mutant))
        code = int(
            pytest.main(
                ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=1", *nearest_first(mutant, tests)]
            )
        )
    finally:
        os._exit(code)


def survivors(mutants: Sequence[Mutant], begin: Callable[[Mutant], tuple[int, float]]) -> list[Mutant]:
    """Those for which all tests pass in time; SIDE_BY_SIDE at a time. `begin` gives a process and the seconds that it has."""
    waiting, running, alive = list(mutants), {}, []
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            mutant = waiting.pop(0)
            pid, limit_s = begin(mutant)
            running[pid] = (mutant, time.monotonic() + limit_s)
        time.sleep(0.005)
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
            tried = len(mutants) - len(waiting) - len(running)
            if tried % 20 == 0 or tried == len(mutants):
                print(f"{tried} of {len(mutants)} tried", file=sys.stderr, flush=True)
    return alive


class Functions:
    """A plugin of pytest that runs all tests once, and then those of a line for each change of a function."""

    def __init__(self, files: Sequence[Path], mutants: Sequence[Mutant]) -> None:
        self.alive: list[Mutant] = []
        self.all_s = 0.0
        self._mutants = mutants
        self._lines = coverage.Coverage(data_file=None, config_file=False, include=[str(path) for path in files])
        self._seconds: dict[pytest.Item, float] = {}
        self._of: dict[tuple[str, int], list[pytest.Item]] = {}  # the tests that run a line of a file

    def pytest_sessionstart(self) -> None:
        """A failure is enough: nobody reads the smallest example."""
        from hypothesis import Phase, settings  # pytest rewrites its plugin as it is imported first

        settings.register_profile("mutants", settings(), phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Takes the place of pytest's own loop."""
        self._lines.start()
        for item in session.items:
            self._lines.switch_context(item.nodeid)
            began = time.monotonic()
            if not _passes([item]):
                raise SystemExit(f"{item.nodeid} fails without a change: is the native library of these sources? (make test)")
            self._seconds[item] = time.monotonic() - began
        self._lines.stop()
        self.all_s = sum(self._seconds.values())
        by_name = {item.nodeid: item for item in session.items}
        data = self._lines.get_data()
        for file in data.measured_files():
            for line, names in data.contexts_by_lineno(file).items():
                self._of[file, line] = sorted((by_name[each] for each in names if each in by_name), key=self._seconds.__getitem__)
        self.alive = survivors(self._mutants, self._begin)
        return True

    def _begin(self, mutant: Mutant) -> tuple[int, float]:
        tests = self._tests(mutant)
        pid = os.fork()
        if pid:
            return pid, 10 + PATIENCE * sum(self._seconds[each] for each in tests)
        try:
            os.setpgid(0, 0)
            _silence()
            change_functions(mutant)
            os._exit(0 if _passes(tests) else 1)
        finally:
            os._exit(1)

    def _tests(self, mutant: Mutant) -> list[pytest.Item]:
        """Those that run the line, quick ones first. A statement of several lines is noted at its first or at any of them."""
        node = node_of(mutant)
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        file = str(ROOT / mutant.file)
        found = {test: None for line in lines for test in self._of.get((file, line), ())}
        if not found:
            before = (line for name, line in self._of if name == file and line < node.lineno)
            found = dict.fromkeys(self._of.get((file, max(before, default=0)), ()))
        return sorted(found, key=self._seconds.__getitem__)


def _passes(items: Sequence[pytest.Item]) -> bool:
    for item, following in zip(items, [*items[1:], None], strict=True):
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
            return False
    return True


def _silence() -> None:
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)


def change_functions(mutant: Mutant) -> None:
    """Gives the functions of this process the changed module's code, and forgets what they have cached."""
    path = str(ROOT / mutant.file)
    codes = {(code.co_qualname, code.co_firstlineno): code for code in _codes(mutated(mutant))}
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and each.__code__.co_filename == path:
            new = codes.get((each.__code__.co_qualname, each.__code__.co_firstlineno))
            if new is not None and new.co_freevars == each.__code__.co_freevars:
                each.__code__ = new
    for each in gc.get_objects():
        if isinstance(each, functools._lru_cache_wrapper):
            each.cache_clear()


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def changed_functions(files: Sequence[Path], mutants: Sequence[Mutant], tests: Sequence[str]) -> tuple[list[Mutant], float]:
    """The survivors among changes of functions, and how long all tests take without one, in seconds.

    In a process of its own, so that this one imports nothing of what is changed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            plugin = Functions(files, mutants)
            options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=1"]
            code = pytest.main([*options, *tests], plugins=[plugin])
            with os.fdopen(writing, "w") as out:
                json.dump([[mutants.index(each) for each in plugin.alive], plugin.all_s], out)
            os._exit(int(code))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)
    os.close(writing)
    with os.fdopen(reading) as found:
        text = found.read()
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("the tests could not be run, as above")
    alive, all_s = json.loads(text)
    return [mutants[each] for each in alive], all_s


def run_set(name: str, modules: Sequence[str], sample: int, seed: int) -> dict[str, Any]:
    """What survives of one set, or of some modules of it."""
    files, tests = SETS[name]
    files = [path for path in files if not modules or path.stem in modules]
    everything = [mutant for path in files for mutant in mutants_of(path)]
    chosen = random.Random(seed).sample(everything, sample) if 0 < sample < len(everything) else everything
    left, all_s = changed_functions(files, [each for each in chosen if each.inside], tests)
    others = [each for each in chosen if not each.inside]
    left += survivors(others, lambda mutant: (start(mutant, tests), 10 + PATIENCE * all_s))
    left.sort(key=lambda each: (each.file, each.line))
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
