"""Small environments, which are teaching material as well."""
