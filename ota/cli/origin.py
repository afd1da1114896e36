"""The options that say what an update is for and where it comes from."""

import argparse
import re
import subprocess
from pathlib import Path

from ota.author.sbom import AUTO
from ota.cli import output
from ota.errors import OtaError
from ota.formats.provenance import ADVISORY_LIMIT, Kind, Provenance

__all__ = ["add_options", "given", "kind", "provenance"]

FROM_GIT = "git"
GIT_LIMIT_S = 30


def add_options(command: argparse.ArgumentParser) -> None:
    """For what builds."""
    said = command.add_argument_group("what the update says of itself")
    purpose = said.add_mutually_exclusive_group()
    purpose.add_argument("--security", action="store_true", help="it mends a weakness: owners of boards may set other rules for it")
    purpose.add_argument("--functional", action="store_true", help="it does not: owners may postpone it")
    said.add_argument("--advisory", metavar="TEXT|FILE", help="with --security: what it mends, for people")
    said.add_argument(
        "--cve",
        type=output.checked(lambda text: Provenance(cves=(text.upper(),)).to_bytes()),
        action="append",
        default=[],
        metavar="CVE-YEAR-NUMBER",
        help="with --security: what it mends; may be repeated",
    )
    said.add_argument(
        "--revision",
        type=output.checked(lambda text: Provenance(revision=text).to_bytes()),
        default="",
        help=f"of the source, such as a commit; {FROM_GIT}: what git says of the module's folder",
    )
    said.add_argument(
        "--builder",
        type=output.checked(lambda text: Provenance(builder=text).to_bytes()),
        default="",
        help="who or what builds it",
    )
    said.add_argument(
        "--sbom",
        default="",
        metavar=f"{AUTO}|FILE",
        help=f"its bill of materials, CycloneDX or SPDX; {AUTO}: made from the module and the locks beside it",
    )


def given(arguments: argparse.Namespace) -> tuple[tuple[str, object], ...]:
    """Those that were used: an update that is built has all this already."""
    names = ("security", "functional", "advisory", "cve", "revision", "builder", "sbom")
    return tuple((f"--{each}", getattr(arguments, each)) for each in names)


def kind(arguments: argparse.Namespace) -> Kind:
    """What the command line says that it is for. Raises UsageError for a security advisory of what mends no weakness."""
    if (arguments.advisory or arguments.cve) and not arguments.security:
        raise output.UsageError("--advisory and --cve are about what an update mends: they go with --security")
    if arguments.security:
        return Kind.SECURITY
    return Kind.FUNCTIONAL if arguments.functional else Kind.UNSPECIFIED


def provenance(arguments: argparse.Namespace, source: Path) -> Provenance:
    """Where what lies at `source` comes from. Raises OtaError, and Refused for texts that are too long or no texts."""
    revision = _git_revision(source.resolve().parent) if arguments.revision == FROM_GIT else arguments.revision
    cves = tuple(sorted({each.upper() for each in arguments.cve}))
    return Provenance(revision, arguments.builder, advisory=_advisory(arguments.advisory or ""), cves=cves)


def _advisory(given: str) -> str:
    """The text, or what is in the file of that name. A single word that is no file is a mistake in a name."""
    path = Path(given)
    if not given or not re.fullmatch(r"\S+", given):
        return given
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(ADVISORY_LIMIT + 2).strip()
    except OSError as error:
        raise OtaError(f"--advisory: {given}: {error.strerror}; a text has more than one word") from None
    except UnicodeDecodeError:
        raise OtaError(f"--advisory: {given} is not text in UTF-8") from None


def _git_revision(folder: Path) -> str:
    """The commit, where it comes from, and "+changed" where files differ from it."""

    def git(*words: str) -> str:
        try:
            command = ["git", "-C", str(folder), *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OtaError(f"--revision {FROM_GIT}: {error}") from None
        if done.returncode:
            raise OtaError(f"--revision {FROM_GIT}: {folder}: {done.stderr.strip()}")
        return done.stdout.strip()

    commit = git("rev-parse", "--verify", "HEAD")
    changed = "+changed" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"git:{commit}{changed}"
