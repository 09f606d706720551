"""The exit codes of every command of a search and of its workers."""

MISTAKE = 2
"""The user has to mend something, such as a value in a file or a file of the data."""
MAX_FAILED = 3
"""So many trials failed that the search ended."""
EXIT_CODES = {
    0: "done; of a worker: nothing is left to do, or it was asked to stop",
    1: "not as promised: the program found that something it promises does not hold, or has a bug",
    MISTAKE: "your mistake, in one line: the field, the value, what is known, and what to do",
    MAX_FAILED: "max_failed: so many trials failed that the search ended",
    130: "interrupted",
    141: "whoever read the output went away first, such as head",
    143: "TERM, USR1 or HUP told a worker to stop, and its trials were given back",
}
"""Code -> what it means."""
