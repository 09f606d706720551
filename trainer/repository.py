"""Where this program lies."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
"""The folder of search/, trainer/, losses/ and models/; in a checkout also of studies/, docs/ and tests/."""
