"""The console script `ota`. Nothing is loaded before Ctrl-C ends it without a traceback."""

from ota import interrupts


def run() -> None:
    """Never returns."""
    interrupts.end_at_once()
    from ota.cli.main import run

    run()


if __name__ == "__main__":
    run()
