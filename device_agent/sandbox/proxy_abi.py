"""Numbers of proxy-wasm (abi-versions/v0.2.1), and how much of each thing a filter may have."""

from device_agent.sandbox.http_text import HEADERS, HEADERS_BYTES

OK, NOT_FOUND, BAD_ARGUMENT, SERIALIZATION_FAILURE, EMPTY, CAS_MISMATCH, INTERNAL_FAILURE, UNIMPLEMENTED = 0, 1, 2, 3, 7, 8, 10, 12
"""Results of host functions ("proxy_status_t")."""
CONTINUE = 0
REQUEST, REQUEST_BODY, REQUEST_HEADERS, VM_CONFIGURATION, PLUGIN_CONFIGURATION = 0, 0, 0, 6, 7
HEADER_MAPS, METRIC_KINDS, COUNTER = 8, 3, 0
LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "error")  # of proxy_log; the last is "critical"
MASK_32, MASK_64 = (1 << 32) - 1, (1 << 64) - 1

METRICS, METRIC_NAME_BYTES = 64, 256
PROPERTY_PATH_BYTES = 1024
MAP_BYTES = HEADERS_BYTES + 4 + 10 * HEADERS
"""Of a header map in memory: with the sizes, and a zero behind each name and value."""
