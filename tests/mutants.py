"""Mutation testing: one small change to a module at a time, and whether a test notices. `python -m tests.mutants --out FILE`.

A change inside a function is made in a process that has run all tests once and noted which lines each of them runs: a fork of it
gets the changed code and runs the tests of that line, until one fails. A change elsewhere (a constant, a default), and one that
survives in a line that no test runs (an import may), is made before anything of ours is imported: a forked process compiles the
changed module in place of the original and runs all tests, first the file that runs most of the module, then the others, those that
run it before those that do not.

A mutant that no test notices survives: either a test is missing, or the change changes nothing that anybody can see. The latter are
listed with the reason in tests/survivors.toml. One that is not listed, and an entry that fits no change any more, make this fail.
"""

import argparse
import ast
import contextlib
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
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parent.parent
EXPLAINED = ROOT / "tests" / "survivors.toml"
OPTIONS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "--hypothesis-seed=1",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
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
    key: str  # what tests/survivors.toml calls it: function, change, line, and which of several that are alike


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may become of a node, with words for it."""
    new = copy.copy(node)
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
    """All of a module's mutants. Texts of errors, how much of something they show, and type hints stay as they are."""
    source = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    found = []
    left_out = {each for node in ast.walk(tree) for whole in _not_changed(node) for each in ast.walk(whole)}
    bodies = {each for node in ast.walk(tree) for part in _body(node) for each in ast.walk(part)}
    names, alike = dict(_names(tree, "")), Counter[str]()
    for number, node in enumerate(ast.walk(tree)):
        if node in left_out:
            continue
        for way, (text, _) in enumerate(changes(node)):
            line = lines[node.lineno - 1].strip()
            whole = text.replace("'", '"').startswith(line.replace("'", '"'))
            key = f"{names[node] or '(module)'}: {text[:160]}" + ("" if whole else f" | {line}")
            alike[key] += 1
            key += f" #{alike[key]}" if alike[key] > 1 else ""
            found.append(Mutant(str(path.relative_to(ROOT)), node.lineno, text[:160], number, way, node in bodies, key))
    return found


def _not_changed(node: ast.AST) -> Iterator[ast.AST]:
    """Parts that nobody can see: decorators (frozen or not), and at which character a text for people is cut."""
    yield from getattr(node, "decorator_list", ())
    if isinstance(node, ast.JoinedStr):
        yield from (each for each in ast.walk(node) if isinstance(each, ast.Slice))


def _names(node: ast.AST, around: str) -> Iterator[tuple[ast.AST, str]]:
    """Each node below one, with the name of the function or class that it is in."""
    for child in ast.iter_child_nodes(node):
        name = f"{around}.{child.name}".lstrip(".") if isinstance(child, ast.FunctionDef | ast.ClassDef) else around
        yield child, name
        yield from _names(child, name)


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


class Nearest:
    """A plugin of pytest that runs the tests that run a module before all others."""

    def __init__(self, nearest: Sequence[str]) -> None:
        self._place = {name: number for number, name in enumerate(nearest)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda each: self._place.get(each.nodeid, len(self._place)))


def start(mutant: Mutant | None, tests: Sequence[str], nearest: Sequence[str]) -> int:
    """Runs all tests in a forked process; this one has imported nothing of what is changed, if anything is. Returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setpgid(0, 0)
        _silence()
        if mutant is not None:
            sys.meta_path.insert(0, Finder(mutant))
        files = Counter(each.partition("::")[0] for each in nearest)
        for first in ([file for file, _ in files.most_common(1)], tests):  # of one file much less is imported
            code = int(pytest.main([*OPTIONS, "-x", *first], plugins=[Nearest(nearest)])) if first else 0
            if code:
                break
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
                print(f"not noticed: {mutant.file}:{mutant.line}: {json.dumps(mutant.key, ensure_ascii=False)}", flush=True)
            del running[pid]
            tried = len(mutants) - len(waiting) - len(running)
            if tried % 20 == 0 or tried == len(mutants):
                print(f"{tried} of {len(mutants)} tried", file=sys.stderr, flush=True)
    return alive


class Functions:
    """A plugin of pytest that runs all tests once, and then those of a line for each change of a function."""

    def __init__(self, files: Sequence[Path], mutants: Sequence[Mutant]) -> None:
        self.alive: list[Mutant] = []
        self.not_run: list[Mutant] = []  # survivors in lines that no test runs: an import does, or nothing
        self.all_s = 0.0
        self.nearest: dict[str, list[str]] = {}  # the tests that run a file, quick ones first
        import coverage  # installed by `make mutants`

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
        for file in data.measured_files():
            found = {test for (name, _), tests in self._of.items() if name == file for test in tests}
            self.nearest[str(Path(file).relative_to(ROOT))] = [each.nodeid for each in sorted(found, key=self._seconds.__getitem__)]
        self._functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
        self._caches = [each for each in gc.get_objects() if isinstance(each, functools._lru_cache_wrapper)]
        gc.freeze()
        self.alive = survivors(self._mutants, self._begin)
        self.not_run = [each for each in self.alive if not self._running(each)]
        return True

    def _begin(self, mutant: Mutant) -> tuple[int, float]:
        tests = self._tests(mutant)
        pid = os.fork()
        if pid:
            return pid, 10 + PATIENCE * sum(self._seconds[each] for each in tests)
        try:
            os.setpgid(0, 0)
            _silence()
            change_functions(mutant, self._functions)
            for each in self._caches:
                each.cache_clear()
            os._exit(0 if _passes(tests) else 1)
        finally:
            os._exit(1)

    def _running(self, mutant: Mutant) -> dict[pytest.Item, None]:
        """The tests that run its lines. A statement of several lines is noted at its first or at any of them."""
        node = node_of(mutant)
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return dict.fromkeys(test for line in lines for test in self._of.get((str(ROOT / mutant.file), line), ()))

    def _tests(self, mutant: Mutant) -> list[pytest.Item]:
        """Those that run the line or, where there are none, the nearest line before it; quick ones first."""
        found = self._running(mutant)
        if not found:
            file = str(ROOT / mutant.file)
            before = (line for name, line in self._of if name == file and line < mutant.line)
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


def change_functions(mutant: Mutant, functions: Sequence[FunctionType]) -> None:
    """Gives those of a module the changed module's code."""
    path = str(ROOT / mutant.file)
    codes = {(code.co_qualname, code.co_firstlineno): code for code in _codes(mutated(mutant))}
    for each in functions:
        if each.__code__.co_filename == path:
            new = codes.get((each.__code__.co_qualname, each.__code__.co_firstlineno))
            if new is not None and new.co_freevars == each.__code__.co_freevars:
                each.__code__ = new


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


@dataclass(frozen=True)
class Run:
    """What a process that has run all tests tells of them and of the changes of functions."""

    alive: Sequence[int]  # the survivors
    not_run: Sequence[int]  # those of them in lines that no test runs
    all_s: float  # how long all tests take without a change
    nearest: dict[str, list[str]]
    imported: Sequence[str]  # modules that are not ours


def changed_functions(files: Sequence[Path], mutants: Sequence[Mutant], tests: Sequence[str]) -> Run:
    """In a process of its own, so that this one imports nothing of what is changed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            plugin = Functions(files, mutants)
            code = pytest.main([*OPTIONS, *tests], plugins=[plugin])
            with os.fdopen(writing, "w") as out:
                alive, not_run = ([mutants.index(each) for each in found] for found in (plugin.alive, plugin.not_run))
                json.dump([alive, not_run, plugin.all_s, plugin.nearest, sorted(_not_ours())], out)
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
    return Run(*json.loads(text))


def _not_ours() -> Iterator[str]:
    """What is imported and lies in no folder of this repository but the environment's."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and ("site-packages" in file or not Path(file).is_relative_to(ROOT)) and "pywamr" not in name:
            yield name


def run_set(name: str, modules: Sequence[str], sample: int, seed: int, again: set[str] | None) -> dict[str, Any]:
    """What survives of one set, or of some modules of it, and which entries of tests/survivors.toml fit no change."""
    files, tests = SETS[name]
    files = [path for path in files if not modules or path.stem in modules]
    everything = [mutant for path in files for mutant in mutants_of(path)]
    chosen = random.Random(seed).sample(everything, sample) if 0 < sample < len(everything) else everything
    chosen = chosen if again is None else [each for each in chosen if each.key in again]
    inside = [each for each in chosen if each.inside]
    run = changed_functions(files, inside, tests)
    left = [inside[each] for each in run.alive if each not in run.not_run]
    for module in run.imported:
        with contextlib.suppress(ImportError):  # so that no change has to import them again
            importlib.import_module(module)
    _, status = os.waitpid(start(None, tests, ()), 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("the tests fail without a change in a process that has imported nothing")
    others = [each for each in chosen if not each.inside] + [inside[each] for each in run.not_run]
    left += survivors(others, lambda each: (start(each, tests, run.nearest.get(each.file, ())), 20 + PATIENCE * run.all_s))
    left.sort(key=lambda each: (each.file, each.line))
    reasons = explained()
    found = [
        {"file": each.file, "line": each.line, "change": each.key, "reason": reasons.get(each.file, {}).get(each.key)}
        for each in left
    ]
    return {"all": len(everything), "tried": len(chosen), "survivors": found, "stale": stale(files)}


def explained() -> dict[str, dict[str, str]]:
    """By file and key, why nobody can notice a change."""
    return tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))


def stale(files: Sequence[Path]) -> list[str]:
    """Entries of changes that can't be made: the source was changed."""
    known = {str(path.relative_to(ROOT)): {each.key for each in mutants_of(path)} for path in files}
    return [f"{file}: {key}" for file, reasons in explained().items() if file in known for key in reasons if key not in known[file]]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the survivors as JSON, prints those that are not explained. 1 where there are some, or entries that fit no change."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Change the code, see whether a test notices.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, action="append", help="what to change; default: everything")
    parser.add_argument("--module", action="append", default=[], help="change only this one of the set, as cose; may be repeated")
    parser.add_argument("--sample", type=int, default=0, help="so many of each set, chosen by --seed; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", type=Path, help="only what survives in this result of an earlier run")
    arguments = parser.parse_args(argv)
    os.environ["HYPOTHESIS_MAX_EXAMPLES"] = "25"
    again = None
    if arguments.again:
        sets = json.loads(arguments.again.read_text(encoding="utf-8")).values()
        again = {each["change"] for found in sets for each in found["survivors"]}
    result = {name: run_set(name, arguments.module, arguments.sample, arguments.seed, again) for name in arguments.set or SETS}
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    bad = 0
    for name, found in result.items():
        open_ones = [each for each in found["survivors"] if not each["reason"]]
        bad += len(open_ones) + len(found["stale"])
        why = f"{len(found['survivors']) - len(open_ones)} of them are explained"
        print(f"{name}: {len(found['survivors'])} of {found['tried']} survive, {why}; there are {found['all']}")
        for file in dict.fromkeys(each["file"] for each in open_ones):
            print(f'["{file}"]')
            for each in open_ones:
                if each["file"] == file:
                    print(f'{json.dumps(each["change"], ensure_ascii=False)} = ""  # line {each["line"]}')
        for entry in found["stale"]:
            print(f"no such change, of {EXPLAINED.relative_to(ROOT)}: {entry}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
