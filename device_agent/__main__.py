"""The console script `device-agent`. Nothing is loaded before Ctrl-C ends it without a traceback."""

import sys

from ota import interrupts


def run() -> None:
    """Never returns."""
    interrupts.end_at_once()
    from device_agent.command import main

    code = main()
    interrupts.end_at_once()
    sys.exit(code)


if __name__ == "__main__":
    run()
