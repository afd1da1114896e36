"""When this version was made: it is not earlier now, on the operator's side and on boards. Set with each release."""

RELEASED_S = 1_767_225_600
"""2026-01-01, in seconds since 1970."""
