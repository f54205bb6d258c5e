"""Timed comparisons, run from a clone: ``python -m benchmarks NAME [--json]``. One file per benchmark."""
