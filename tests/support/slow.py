"""What a zygote takes long to load."""

import time

from tests.support.lives import main, rehearse

__all__ = ["main", "rehearse"]
time.sleep(1.5)
