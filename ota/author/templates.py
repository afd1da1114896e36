"""`ota new`: a module to begin with, in one of the languages of sdk/templates."""

import re
import shutil
from pathlib import Path

import ota
from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats.fields import is_name

LANGUAGES = ("assemblyscript", "c", "rust", "wat", "zig")


class TemplateError(OtaError):
    """A module could not be begun."""


def _sdk() -> Path:
    """Where templates and headers lie: in the installed package, or in the source tree."""
    places = [Path(folder) / "sdk" for folder in ota.__path__] + [Path(folder).parent / "sdk" for folder in ota.__path__]
    for place in places:
        if (place / "templates").is_dir():
            return place
    raise TemplateError("the templates are not installed")


def create(name: str, language: str, parent: Path) -> Path:
    """Makes the folder `name` below `parent` with source, description and README; returns it. Raises TemplateError."""
    if not is_name(name):
        raise TemplateError(f"{name!r} is no name for a module: 1 to 64 letters, digits, - _ or .")
    folder, sdk = parent / name, _sdk()
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted((sdk / "templates" / language).iterdir())}
    files[f"{name}.toml"] = (sdk / "templates" / "module.toml").read_text(encoding="utf-8")
    if language == "c":
        files["device_module.h"] = (sdk / "c" / "device_module.h").read_text(encoding="utf-8")
    try:
        folder.mkdir()
    except FileExistsError:
        raise TemplateError(f"{folder} is there already") from None
    except OSError as error:
        raise TemplateError(f"{folder}: {error.strerror}") from error
    try:
        for file, text in files.items():
            content = re.sub(r"\bNAME\b", name, text) if file != "device_module.h" else text
            write_durably(folder / file, content.encode())
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # incomplete: it would block the next attempt
        raise TemplateError(f"{error.filename}: {error.strerror}") from error
    return folder
