"""What a zygote takes long to load."""

import time

from tests.support.lives import main

__all__ = ["main"]
time.sleep(1.5)
