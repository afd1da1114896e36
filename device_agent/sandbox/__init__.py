"""What runs in a worker process: zygote, confinement, contract, WASI, devices."""
