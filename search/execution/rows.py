"""What the lease row of a trial says, as its holder knows it."""

import json
from typing import Any

from search.execution.messages import Member, Written
from search.storage.schema import leases


def spent(member: Member) -> dict[str, Any]:
    """What the trial cost so far; that grows whether or not a checkpoint is written. Telling it is a sign of life."""
    cost = json.dumps(member.seconds, sort_keys=True)
    return dict(seconds=cost, gpu_seconds=member.gpu_seconds, beat=leases.c.beat + 1)


def after_writing(member: Member, item: Written) -> dict[str, Any]:
    """What it says once the checkpoint of the member's newest epoch is on disk."""
    return dict(
        epoch=item.epoch,
        checkpoint=str(item.saved.path),
        checkpoint_sha256=item.saved.sha256,
        replay=json.dumps(item.replay),
        **figures(member),
    )


def at_end(member: Member) -> dict[str, Any]:
    """What it says when nothing is left to train: no checkpoint."""
    return dict(epoch=member.epoch, checkpoint=None, **figures(member))


def figures(member: Member) -> dict[str, Any]:
    """What the trial cost and reached so far."""
    return dict(
        **spent(member),
        best_epoch=member.best_epoch,
        best_score=member.best_score,
        scores=json.dumps(dict(member.scores), allow_nan=False, sort_keys=True),
    )
