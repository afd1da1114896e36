"""The update system: wire formats and trust (`ota.formats`), and the operator's side."""

__all__ = ["__version__"]

__version__ = "0.1.0"  # as in pyproject.toml
