"""Runs: their folder, their record, and what keeps them whole."""
