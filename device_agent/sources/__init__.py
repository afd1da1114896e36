"""Sources: what happens on the board itself, as events on topics below sys/. A source knows no broker, no module and no storage."""
