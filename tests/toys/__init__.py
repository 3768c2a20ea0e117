"""Toys: small worlds in which a method's idea shows, each defined once, for the test suite and for `make toys`.

The suite (tests/test_toys.py) runs every toy at one seed; `python -m tests.toys` runs them at all their seeds and
writes tests/toys.csv. docs/toys.md says where our values and others' differ.
"""
