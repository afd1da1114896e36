"""The update system: wire formats and trust (`ota.formats`), and the operator's side."""
