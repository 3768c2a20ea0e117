"""Several runs side by side: what was run, what came of it, and what differs."""
