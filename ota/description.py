"""What the author of a module says of it, in the .toml beside it: one reading for `ota build` and `ota run`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ota.errors import OtaError
from ota.formats.capabilities import Capabilities
from ota.formats.fields import is_name
from ota.formats.module import Limits, ModuleDescription, checked_arguments, checked_environment
from ota.formats.text import nearest
from ota.toml_file import read_toml

__all__ = ["MODULE_KEYS", "DescriptionError", "read_description"]

MODULE_KEYS = ("name", "version", "security_epoch", "config", "idempotent", "source", "defines", "arguments", "environment")


class DescriptionError(OtaError):
    """The description of a module is wrong; the text names the file and what is expected."""


def read_description(path: Path, version: str | None = None) -> ModuleDescription:
    """The description in a .toml. `version`: the version of one that names none, which is refused otherwise.

    Raises TomlError, DescriptionError, and Refused MALFORMED, MEMBER_UNKNOWN for capabilities or limits.
    """
    value = read_toml(path)
    about: Any = value.get("module", {})
    if not isinstance(about, dict):
        raise DescriptionError(f"{path}: module must be a table, [module], with name and version")
    _check_keys(path, "", value, ("module", "limits", "capabilities"))
    _check_keys(path, "[module] ", about, MODULE_KEYS)
    name, epoch, version = about.get("name", path.stem), about.get("security_epoch", 0), about.get("version", version)
    for key, text in (("name", name), ("version", version)):
        if not isinstance(text, str) or not is_name(text):
            found = "missing" if text is None else repr(text)
            raise DescriptionError(f"{path}: [module] {key} is {found}: a text of 1 to 64 letters, digits, - _ or . is expected")
    assert isinstance(version, str)
    if type(epoch) is not int or epoch < 0:
        raise DescriptionError(f"{path}: [module] security_epoch is {epoch!r}: a whole number from 0 on is expected")
    if not isinstance(about.get("config", ""), str):
        raise DescriptionError(f"{path}: [module] config is {about['config']!r}: a text is expected")
    if not isinstance(about.get("idempotent", False), bool):
        raise DescriptionError(f"{path}: [module] idempotent is {about['idempotent']!r}: true or false is expected")
    return ModuleDescription(
        name=name,
        version=version,
        capabilities=Capabilities.parse(value.get("capabilities", {}), str(path)),
        limits=Limits.parse(value.get("limits", {}), f"{path}: [limits]"),
        security_epoch=epoch,
        config=about.get("config", "").encode(),
        idempotent=about.get("idempotent", False),
        arguments=checked_arguments(about.get("arguments", []), str(path)),
        environment=checked_environment(about.get("environment", {}), str(path)),
    )


def _check_keys(path: Path, where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    if strange := [key for key in table if key not in known]:
        named = ", ".join(f"{key}{nearest(key, known)}" for key in strange)
        raise DescriptionError(f"{path}: {where}has unknown keys: {named}")
