"""What the lease row of a trial says, as its holder knows it."""

import json
from typing import Any

from search.events import Member, Told, Written
from trainer.config import Replay
from trainer.reports import Saved


def after_epoch(member: Member, item: Told) -> dict[str, Any]:
    """What it says after an epoch; without a checkpoint, that of an earlier epoch stays with its figures."""
    if item.saved is None:
        return dict(seconds=json.dumps(member.seconds, sort_keys=True), gpu_seconds=member.gpu_seconds)
    return _named(member, item.report.epoch, item.saved, item.replay)


def after_writing(member: Member, item: Written) -> dict[str, Any]:
    """What it says once the checkpoint of the member's last epoch is on disk."""
    return _named(member, item.epoch, item.saved, item.replay)


def _named(member: Member, epoch: int, saved: Saved, replay: Replay) -> dict[str, Any]:
    return dict(
        epoch=epoch,
        checkpoint=str(saved.path),
        checkpoint_sha256=saved.sha256,
        replay=json.dumps(replay),
        **figures(member),
    )


def figures(member: Member) -> dict[str, Any]:
    """What the trial cost and reached so far."""
    return dict(
        seconds=json.dumps(member.seconds, sort_keys=True),
        gpu_seconds=member.gpu_seconds,
        best_epoch=member.best_epoch,
        best_score=member.best_score,
        scores=json.dumps(dict(member.scores), allow_nan=False, sort_keys=True),
    )
