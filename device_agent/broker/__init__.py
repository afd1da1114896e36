"""The MQTT link, delivery of the outbox, identity and enrolment."""

import importlib
import sys
import types
import urllib
from typing import Any


class _Later(types.ModuleType):
    """Stands for a module that is imported until somebody uses it. importlib's LazyLoader loads it where it is imported again."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks for
            raise AttributeError(name)
        sys.modules.pop(self.__name__, None)
        return getattr(importlib.import_module(self.__name__), name)


if "urllib.request" not in sys.modules:  # paho-mqtt imports it, for proxies: more than a megabyte
    urllib.request = sys.modules["urllib.request"] = _Later("urllib.request")  # type: ignore[attr-defined]
