"""Text from modules and boards for terminals; what a mistyped name may have meant."""

from collections.abc import Iterable


def printable(text: str, keep: str = "") -> str:
    """The text, with escapes in place of what a terminal would obey or not show; characters of `keep` stay."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text)


def nearest(given: str, known: Iterable[str]) -> str:
    """What may have been meant, to be put behind a message; empty where nothing is near."""
    import difflib  # only for who made a mistake

    known = list(known)
    begun = [each for each in known if len(given) > 2 and each.startswith(given)]
    near = begun or difflib.get_close_matches(given, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def amount(number: int, noun: str) -> str:
    """So many of something, in the singular or plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
