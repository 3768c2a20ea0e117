"""Measurements: results tables (benchmarks.table) and speed (benchmarks.speed). Not part of the installed package."""
