"""Completion of commands and options in bash, zsh and fish, made from the parser itself."""

import argparse
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from ota.cli import output

__all__ = ["add_commands", "subcommands"]

SHELLS = ("bash", "zsh", "fish")
_BASH = """\
_ota() {
    local word current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" path="" words=""
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$path $word" in
            @VERBS@) path="$path $word" ;;
        esac
    done
    case "$path $previous" in
@CHOICES@
        *) case "$path" in
@WORDS@
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _ota ota
"""


def add_commands(commands: Any, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Adds the verb of this module; `parser` makes the parser that is to be completed."""
    completion = commands.add_parser(
        "completion",
        help="a script that completes `ota` in a shell",
        epilog="example: ota completion bash > ~/.local/share/bash-completion/completions/ota",
    )
    completion.add_argument("shell", choices=SHELLS, help="what reads the script")
    completion.set_defaults(handler=lambda arguments: _completion(arguments.shell, parser()))


def subcommands(command: argparse.ArgumentParser) -> Iterator[Any]:
    """The groups of verbs below a command."""
    return (each for each in command._actions if isinstance(each, argparse._SubParsersAction))


def _completion(shell: str, parser: argparse.ArgumentParser) -> int:
    output.result((_fish if shell == "fish" else _bash)(parser, zsh=shell == "zsh").rstrip("\n"))
    return 0


def _commands(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its verbs in front, such as " image build"; the first is `ota` itself, as ""."""
    yield path, parser
    for verbs in subcommands(parser):
        for name, command in verbs.choices.items():
            yield from _commands(command, f"{path} {name}")


def _options(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [each for each in command._actions if each.option_strings and each.help != argparse.SUPPRESS]


def _words(command: argparse.ArgumentParser) -> list[str]:
    found = [name for option in _options(command) for name in option.option_strings]
    for action in command._actions:
        if not action.option_strings and action.choices:
            found += [str(each) for each in action.choices]
    return found


def _bash(parser: argparse.ArgumentParser, *, zsh: bool) -> str:
    """A script for bash; zsh reads the same one, through its own `bashcompinit`."""
    commands = list(_commands(parser))
    verbs = "|".join(shlex.quote(path) for path, _ in commands if path)
    words = [f"            {shlex.quote(path)}) words={shlex.quote(' '.join(_words(command)))} ;;" for path, command in commands]
    choices = [
        f"        {'|'.join(shlex.quote(f'{path} {name}') for name in option.option_strings)})"
        f" words={shlex.quote(' '.join(map(str, option.choices)))} ;;"
        for path, command in commands
        for option in _options(command)
        if option.choices
    ]
    script = _BASH.replace("@VERBS@", verbs).replace("@CHOICES@", "\n".join(choices)).replace("@WORDS@", "\n".join(words))
    return ("autoload -U +X compinit bashcompinit && compinit && bashcompinit\n" if zsh else "") + script


def _fish(parser: argparse.ArgumentParser, *, zsh: bool) -> str:  # noqa: ARG001
    lines = []
    for path, command in _commands(parser):
        seen = [f"__fish_seen_subcommand_from {name}" for name in path.split()]
        below = [name for verbs in subcommands(command) for name in verbs.choices]
        for verbs in subcommands(command):
            texts = {each.dest: each.help or "" for each in verbs._choices_actions}
            at = "; and ".join([*seen, f"not __fish_seen_subcommand_from {' '.join(below)}"])
            lines += [f"complete -c ota -f -n {shlex.quote(at)} -a {name} -d {shlex.quote(texts.get(name, ''))}" for name in below]
        for option in _options(command):
            lines.append(_fish_option(option, "; and ".join(seen)))
    return "\n".join(lines)


def _fish_option(option: argparse.Action, condition: str) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.option_strings)
    takes = "" if option.nargs == 0 else " -r"
    choices = f" -f -a {shlex.quote(' '.join(map(str, option.choices)))}" if option.choices else ""
    about = (option.help or "").replace("%(default)s", str(option.default)).replace("%%", "%")
    where = f" -n {shlex.quote(condition)}" if condition else ""
    return f"complete -c ota{where} {names}{takes}{choices} -d {shlex.quote(about)}"
