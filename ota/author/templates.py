"""`ota new`: a module to begin with, in one of the languages of sdk/templates."""

import re
import shutil
from pathlib import Path

import ota
from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats.fields import is_name

LANGUAGES = ("assemblyscript", "c", "c++", "go", "javascript", "rust", "typescript", "wat", "zig")
_LIBRARIES = {"c": ("c", ""), "c++": ("c", ""), "go": ("go", "device")}
"""Folder of the SDK that comes with a language's template, and where it goes in the module's folder."""
_KEPT = "device_module.h"  # has no name of a module in it
_SCRIPTS = {"javascript": ".js", "typescript": ".ts"}  # with the name of the module, for the .wasm is made beside them


class TemplateError(OtaError):
    """A module could not be begun."""


def sdk() -> Path:
    """Where templates and headers lie: in the installed package, or in the source tree. Raises TemplateError."""
    places = [Path(folder) / "sdk" for folder in ota.__path__] + [Path(folder).parent / "sdk" for folder in ota.__path__]
    for place in places:
        if (place / "templates").is_dir():
            return place
    raise TemplateError("the templates are not installed")


def create(name: str, language: str, parent: Path) -> Path:
    """Makes the folder `name` below `parent` with source, description and README; returns it. Raises TemplateError."""
    if not is_name(name):
        raise TemplateError(f"{name!r} is no name for a module: 1 to 64 letters, digits, - _ or .")
    if name.startswith("-"):
        raise TemplateError(f"{name!r} begins with a dash: programs would take {name}.wasm for an option")
    folder, source = parent / name, sdk()
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted((source / "templates" / language).iterdir())}
    description = files.pop("module.toml", "") or (source / "templates" / "module.toml").read_text(encoding="utf-8")
    files[f"{name}.toml"] = description
    if language in _SCRIPTS:
        files[f"{name}{_SCRIPTS[language]}"] = files.pop(f"module{_SCRIPTS[language]}")
        files["device-module.d.ts"] = (source / "javascript" / "device-module.d.ts").read_text(encoding="utf-8")
    if language in _LIBRARIES:
        library, place = _LIBRARIES[language]
        for path in sorted(each for each in (source / library).rglob("*") if each.is_file()):
            files[str(Path(place) / path.relative_to(source / library))] = path.read_text(encoding="utf-8")
    try:
        folder.mkdir()
    except FileExistsError:
        raise TemplateError(f"{folder} is there already") from None
    except OSError as error:
        raise TemplateError(f"{folder}: {error.strerror}") from error
    try:
        for file, text in files.items():
            content = re.sub(r"\bNAME\b", name, text) if file != _KEPT else text
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_durably(folder / file, content.encode())
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # incomplete: it would block the next attempt
        raise TemplateError(f"{error.filename}: {error.strerror}") from error
    return folder
