"""Small worlds, which are teaching material as well."""
