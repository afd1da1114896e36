"""Completion scripts, in the shells themselves."""

import shutil
import subprocess

import pytest

from ota.keyring import ALGORITHMS
from tests.support.operator import ota


def _script(capsys, shell: str) -> str:
    assert ota(".", "completion", shell) == 0
    return capsys.readouterr().out


def _bash(script: str, *words: str) -> list[str]:
    """What bash would offer for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    asked = f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _ota; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_verbs_options_and_choices(capsys):
    script = _script(capsys, "bash")
    assert _bash(script, "ota", "pub") == ["publish"]
    assert _bash(script, "ota", "publish", "--dr") == ["--dry-run"]
    assert _bash(script, "ota", "image", "b") == ["build"]
    assert _bash(script, "ota", "init", "--algorithm", "") == list(ALGORITHMS)
    assert _bash(script, "ota", "completion", "") == ["-h", "--help", "bash", "zsh", "fish"]
    assert "--settings" in _bash(script, "ota", "-C", "folder", "image", "build", "--s")


def test_fish_gets_a_line_for_each_command_and_option(capsys):
    lines = _script(capsys, "fish").splitlines()
    assert all(line.startswith("complete -c ota") for line in lines)
    assert any("-a publish -d" in line for line in lines)
    assert any("__fish_seen_subcommand_from publish' -l fraction -r" in line for line in lines)
    assert any(f"-l algorithm -r -f -a '{' '.join(ALGORITHMS)}'" in line for line in lines)


@pytest.mark.parametrize(("shell", "check"), [("zsh", "-n"), ("fish", "--no-execute")])
def test_the_shell_itself_takes_the_script(tmp_path, capsys, shell, check):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(_script(capsys, shell))
    subprocess.run([shell, check, str(tmp_path / "script")], check=True)
