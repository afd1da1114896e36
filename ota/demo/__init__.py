"""`ota demo`: broker, board and operator on one machine."""
