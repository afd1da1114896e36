"""rumqttd as `ota demo` has it, without the start of a Python of its own."""

import os
from pathlib import Path

from ota.demo.broker import DemoBroker
from tests.support import preloaded

STOP_TIMEOUT_S = 60


class Rumqttd(DemoBroker):
    """The demo's broker, forked (tests.support.preloaded). It ends with this process."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__(folder, port)
        self._log = folder / f"broker-{self.port}.log"
        self._held = -1  # it ends when this is closed

    def _launch(self) -> None:
        theirs, self._held = os.pipe()
        try:
            with self._log.open("ab") as log:
                self._broker = preloaded.start_broker({"config_path": str(self._config)}, theirs, log)
        finally:
            os.close(theirs)

    def stop(self) -> None:
        """Stops it. Again: no effect."""
        if self._broker is not None:
            os.close(self._held)
            self._broker.kill()  # it keeps nothing, and does not hear SIGTERM where coverage has a handler in Python
            self._broker.wait(STOP_TIMEOUT_S)
            self._broker = None
