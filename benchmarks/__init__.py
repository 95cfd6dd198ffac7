"""What docs/experiments.md states, measured: `make bench`, or `python -m benchmarks [NAME ...]`."""
