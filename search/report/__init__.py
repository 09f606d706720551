"""`python -m search report`: what a search found, as one page without outside files, and the JSON that it shows."""
