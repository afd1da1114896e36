"""Text from modules and boards, for terminals."""


def printable(text: str, keep: str = "") -> str:
    """The text, with escapes in place of what a terminal would obey or not show; characters of `keep` stay."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text)
