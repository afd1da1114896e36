"""Programs that others wrote, from packages: as WebAssembly in several runtimes, beside the same sources compiled natively."""
