"""Reading files that nobody vouches for: sizes are checked before anything is read."""
