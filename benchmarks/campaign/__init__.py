"""A campaign of faults against the workers of one search: gates, workers, injuries, and what came of them."""
