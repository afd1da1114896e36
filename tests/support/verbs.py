"""Every command of `ota`."""

import argparse

from ota.cli.completion import subcommands


def verbs(command: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    below = [each for group in subcommands(command) for name, each in group.choices.items() for each in verbs(each, (*path, name))]
    needed = any(group.required for group in subcommands(command))
    return below if needed else [(path, command), *below]
