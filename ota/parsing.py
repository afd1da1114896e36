"""The parser of command lines: a mistake is told in one line, with what is nearest to it and where help is.

The help of a verb begins with what the verb does.
"""

import argparse
import re
from typing import Any, NoReturn

from ota.formats.text import nearest

__all__ = ["Parser"]

SHOWN = 12  # choices that a message lists
_CHOICE = re.compile(r"(?P<what>argument .+): invalid choice: '(?P<given>.*)' \(choose from (?P<choices>.*)\)", re.DOTALL)


class _Verbs(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Verbs, whose own help says what the list of them says."""

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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Takes options before, between and behind arguments.

        Ends the program when something is left over, and names the command that does not know it.
        """
        if self._within:  # intermixed parsing calls this for its parts
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            in_order = self._subparsers or "--" in (args or ())  # behind `--` all is an argument
            parse = super().parse_known_args if in_order else super().parse_known_intermixed_args
            found, strange = parse(args, namespace)
        finally:
            self._within = False
        if strange:
            option = strange[0].partition("=")[0]
            options = [name for action in self._actions if action.help != argparse.SUPPRESS for name in action.option_strings]
            self.error(f"there is no {'option' if option.startswith('-') else 'argument'} {option}{nearest(option, options)}")
        return found, strange

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        if choice := _CHOICE.fullmatch(message):
            choices = [each.strip("'") for each in choice["choices"].split(", ")]
            known = f" (choose from {', '.join(choices)})" if len(choices) <= SHOWN else ""
            message = f"{choice['what']}: there is no {choice['given']}{nearest(choice['given'], choices) or known}"
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` says more\n")
