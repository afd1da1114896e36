"""What a zygote loads for seconds with the processor in use, as on a slow board, or for ever without, named in HANG."""

import os
import time

from tests.support.lives import main, warm_up

__all__ = ["main", "warm_up"]
if "HANG" in os.environ:
    time.sleep(600)
end = time.process_time() + 2.0
while time.process_time() < end:
    pass
