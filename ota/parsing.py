"""The parser of command lines: a mistake is told in one line, with what is nearest to it and where help is.

The help of a verb begins with what the verb does.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ota.formats.text import nearest

__all__ = ["Parser"]

SHOWN = 12  # choices that a message lists
_CHOICE = re.compile(r"(?P<what>argument .+): invalid choice: '(?P<given>.*)' \(choose from (?P<choices>.*)\)", re.DOTALL)


class _Verbs(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Verbs, whose own help says what the list of them says."""

    in_sections = False

    def _get_subactions(self) -> Any:  # those that help lists below the argument
        return [] if self.in_sections else super()._get_subactions()

    def add_parser(self, name: str, **settings: Any) -> Any:
        """As argparse's; the description is the help, as a sentence, unless there is one."""
        about = settings.get("help") or ""
        settings.setdefault("description", about[:1].upper() + about[1:] + "." * bool(about))
        return super().add_parser(name, **settings)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations: `--device` must never be taken for `--devices`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **named})
        self._within = False
        self.register("action", "parsers", _Verbs)

    def show_in_sections(self, sections: Mapping[str, Sequence[str]]) -> None:
        """Help has a section for each title, with its verbs."""
        (verbs,) = (each for each in self._actions if isinstance(each, _Verbs))
        about = {each.dest: each for each in verbs._choices_actions}
        for title, names in sections.items():
            self.add_argument_group(title)._group_actions.extend(about[name] for name in names)
        self._action_groups.append(self._action_groups.pop(1))  # the options
        self.usage = self.format_usage().removeprefix("usage: ").strip()
        verbs.in_sections, verbs.help = True, argparse.SUPPRESS

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Takes options before, between and behind arguments.

        Ends the program when something is left over, and names the command that does not know it.
        """
        if self._within:  # intermixed parsing calls this for its parts
            return super().parse_known_args(args, namespace)
        words = sys.argv[1:] if args is None else args
        if self._subparsers:
            self._check_verb(words)
        self._within = True
        try:
            in_order = self._subparsers or "--" in (args or ())  # behind `--` all is an argument
            parse = super().parse_known_args if in_order else super().parse_known_intermixed_args
            found, strange = parse(args, namespace)
        finally:
            self._within = False
        if strange:
            self._refuse(strange[0])
        return found, strange

    def _check_verb(self, words: Sequence[str]) -> None:
        """Ends the program for an unknown option before the verb, whose value would be taken for the verb.

        Without any word it shows the verbs, where one is required.
        """
        if not words and any(action.required for action in self._actions if isinstance(action, _Verbs)):
            self.print_help(sys.stderr)
            self.exit(2)
        left = iter(words)
        for word in left:
            if not word.startswith("-") or word in ("-", "--"):
                return
            name, has_value, _ = word.partition("=")
            action = self._option_string_actions.get(name)
            if action is None and word[:2] not in self._option_string_actions:  # as -C in -CFOLDER
                self._refuse(word)
            if action is not None and action.nargs is None and not has_value:
                next(left, None)

    def _refuse(self, word: str) -> NoReturn:
        name = word.partition("=")[0]
        options = [each for action in self._actions if action.help != argparse.SUPPRESS for each in action.option_strings]
        self.error(f"there is no {'option' if name.startswith('-') else 'argument'} {name}{nearest(name, options)}")

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        if choice := _CHOICE.fullmatch(message):
            choices = [each.strip("'") for each in choice["choices"].split(", ")]
            known = f" (choose from {', '.join(choices)})" if len(choices) <= SHOWN else ""
            message = f"{choice['what']}: there is no {choice['given']}{nearest(choice['given'], choices) or known}"
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` says more\n")
