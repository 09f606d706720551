"""Several studies in one file: what they are, where they stand in a database, and how a worker goes through them."""
