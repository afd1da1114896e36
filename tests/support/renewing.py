"""The clock of renewals, and their questions."""

import pytest

from ota.formats.reasons import Refused

DAY_S = 86_400


NOW_S = 1_800_000_000


class Clock:
    def __init__(self):
        self.now_s = NOW_S

    def __call__(self):
        return self.now_s

    def days(self, number):
        self.now_s += number * DAY_S


def refusal(function, *values):
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value.reason
