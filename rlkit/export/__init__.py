"""A policy that runs elsewhere: a folder with its contract, its weights and a reader that needs NumPy alone
(docs/export.md)."""
