"""What noisy units cost, beside torch's: `python -m benchmarks.layers`, `make bench`."""
