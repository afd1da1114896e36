"""Which tests run: `--tier` and `--architecture`; docs/testing.md has the table.

`quick` (the default, `make test`) leaves out what is marked `full`, and of tests marked `emulated` those for architectures whose
turn it is not. `full` runs everything, `rest` what `quick` leaves out. A test that is named by its node id always runs.
"""

import json
import os
import time

import pytest

from tests.support.cache import ROOT, locked

ARCHITECTURES = ("aarch64", "armv7", "riscv64")
TIERS = ("quick", "full", "rest")
KNOWN = ROOT / "tests" / "durations.json"
"""What tests took, in seconds, on two idle cores: those of LONG_S and more, and all that are left out of *quick*."""
LONG_S = 5.0


def architecture_on(day_of_year: int) -> str:
    """The architecture whose turn it is on a day of the year."""
    return ARCHITECTURES[day_of_year % len(ARCHITECTURES)]


def default_architecture() -> str:
    """What ARCHITECTURE in the environment names, else today's."""
    return os.environ.get("ARCHITECTURE") or architecture_on(time.gmtime().tm_yday)


def architecture_of(item: pytest.Item) -> str:
    """The architecture among a test's parameters; empty where there is none."""
    parameters = getattr(item, "callspec", None)
    words = [each for each in parameters.params.values() if isinstance(each, str)] if parameters else []
    return next((name for name in ARCHITECTURES for word in words if word.split("-")[0] == name), "")


def left_out(item: pytest.Item, architecture: str) -> bool:
    """Whether `make test` leaves a test out."""
    if item.get_closest_marker("full"):
        return True
    return item.get_closest_marker("emulated") is not None and architecture_of(item) not in ("", architecture)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the two options."""
    group = parser.getgroup("tiers")
    group.addoption("--tier", choices=TIERS, default="quick", help="quick: as `make test`; full: all; rest: what quick leaves out")
    group.addoption(
        "--architecture", choices=ARCHITECTURES, default=default_architecture(), help="emulated in the tier quick; default: by day"
    )


class Leftovers:
    """Fails a run that leaves files among the sources, where they would get into a commit: .gitignore has all others' names."""

    def __init__(self) -> None:
        self._before = set(ROOT.iterdir())

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Looks once all tests are done."""
        left = sorted(each.name for each in set(ROOT.iterdir()) - self._before if not each.name.startswith((".", "__pycache__")))
        if left:
            print(f"\nFAILED: the tests left files in the project's folder: {', '.join(left)}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_report_header(config: pytest.Config) -> str:
    """Says what was chosen."""
    architecture = config.getoption("--architecture")
    return f"tier: {config.getoption('--tier')}; emulated architecture: {architecture} (ARCHITECTURE=… chooses another)"


class Durations:
    """What each test took, with what was set up for it and taken down; kept below build/ from run to run."""

    path = ROOT / "build" / "tests" / "durations.json"

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds one phase of a test."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        """Writes them beside those of other runs."""
        with locked("durations"):
            known = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
            known |= {test: round(seconds, 2) for test, seconds in self.seconds.items()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(known, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Notes durations, in the process that has all reports; not with `-p no:cacheprovider`, which is to leave nothing behind."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    config.pluginmanager.register(Leftovers())
    if config.pluginmanager.hasplugin("cacheprovider"):
        config.pluginmanager.register(Durations())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drops what the tier leaves out; with several processes, puts what takes long first."""
    tier, architecture = config.getoption("--tier"), config.getoption("--architecture")
    if tier != "full" and not any("::" in each for each in config.args):
        dropped = [item for item in items if left_out(item, architecture) != (tier == "rest")]
        gone = set(dropped)
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=dropped)
    if hasattr(config, "workerinput"):
        known = json.loads(KNOWN.read_text(encoding="utf-8"))
        items.sort(key=lambda item: -known.get(item.nodeid, 0.0) if known.get(item.nodeid, 0.0) >= LONG_S else 0.0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With several processes (`-n`), a file's boards of one architecture stay in one, which boots them once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByBoard(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            words = test.replace("[", "-").replace("]", "-").split("-")
            boots = file.startswith("tests/boards/") and any(name in words for name in ARCHITECTURES)
            return next(f"{file} {name}" for name in ARCHITECTURES if name in words) if boots else nodeid

    return ByBoard(config, log)
