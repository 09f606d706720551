"""What whoever looks after a database types: list, stop, close and delete studies."""
