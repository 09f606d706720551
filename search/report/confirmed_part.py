"""What training again on fresh seeds showed, as values of report.json."""

from models.config import Frozen


class ConfirmedPart(Frozen):
    """To be filled from what was confirmed."""
