"""What a holder says of its trial in the dashboard: the attributes at its end, and the picture before it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from loguru import logger

from search.execution.messages import Member, Settings
from search.study.adapter import Search
from search.study.trial_attributes import attempts, listening, moved, pace, result


def ending(member: Member, outcome: str) -> dict[str, Any]:
    """The attributes of a trial whose holder lets go of it: finished, pruned, a failure's class, or given back."""
    reached = result(member.best_epoch, member.scores)
    return {"attempts": attempts(member.holders, outcome), **reached, **moved(member.shares), **cost(member)}


def cost(member: Member) -> dict[str, Any]:
    """The attributes that say what its holder's epochs cost so far."""
    return {**pace(member.here, member.epochs), **listening(member.run, member.passes, member.epochs)}


def upload(search: Search, settings: Settings, member: Member, picture: Path | None) -> Member:
    """Give a trial that still runs its picture, once; where the folder refuses it, the trial goes on without.

    Raises LeaseLost.
    """
    artifacts = settings.artifacts
    if picture is None or artifacts is None or not settings.images or member.pictured:
        return member
    held = member.held
    try:
        with search.opened.fence.write(held.trial_id, held.token):
            artifacts.to_trial(held.trial_id, picture, "image/png")
        picture.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        logger.warning("{}: its picture cannot be kept in {} ({})", member.label, artifacts.folder, reason)
    return replace(member, pictured=True)
