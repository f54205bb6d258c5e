"""Loaders of judge benchmarks: a file or a hub dataset becomes items."""
