"""What a confirmation shows: paired differences with their uncertainty, and the verdicts that follow."""
