"""Measures this library beside its peers; `python -m benchmarks` prints the table."""
