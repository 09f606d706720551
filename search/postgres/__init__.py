"""A PostgreSQL without an administrator: start, stop, backup, restore, upgrade."""
