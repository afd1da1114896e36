"""What a zygote takes long to load."""

import time

from tests.support.lives import main, warm_up

__all__ = ["main", "warm_up"]
time.sleep(1.5)
