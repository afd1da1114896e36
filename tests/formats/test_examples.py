"""The worked examples of the documentation are what the code writes, byte by byte."""

import re

from tests.support.documents import WRITTEN
from tests.support.examples import PAGE, page


def test_the_page_of_examples_is_made_from_the_code():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.support.examples writes it anew"


def test_the_hexadecimal_of_the_page_is_what_is_written():
    blocks = re.findall(r"^## ([\w-]+)\n.*?```\n\n```text\n([0-9a-f\n]+)```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) > 10
    assert {name: bytes.fromhex(text) for name, text in blocks} == {name: WRITTEN[name] for name, _ in blocks}
