"""How a trial ended, read from its lease: the one place in which pages, exports and confirmations look it up.

A pruned trial and a trial that was trained to its end are both finished without a failure. Weights tell them apart:
they are written in the transaction that ends a trial after its last epoch, and at no other time.
"""

import math

from search.storage.leases import LeaseDetails
from search.storage.schema import FINISHED


def completed_or_pruned(lease: LeaseDetails) -> bool:
    """Whether a trial took a place of the budget: it was trained to its end, or it was pruned."""
    return lease.state == FINISHED and lease.failure is None


def trained_to_end(lease: LeaseDetails) -> bool:
    """Whether a trial had its last epoch, so that its weights are kept; it may have no score."""
    return completed_or_pruned(lease) and lease.weights is not None


def pruned(lease: LeaseDetails) -> bool:
    """Whether a trial ended before its last epoch without having failed."""
    return completed_or_pruned(lease) and lease.weights is None


def has_final_score(lease: LeaseDetails) -> bool:
    """Whether a trial was trained to its end and has a finite score, so that it can be ranked against others."""
    return trained_to_end(lease) and lease.best_score is not None and math.isfinite(lease.best_score)
