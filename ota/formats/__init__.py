"""Bytes to frozen dataclasses and back, with limits and signatures checked. No I/O, no clock, no private key."""
