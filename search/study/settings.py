"""Which study file's sampler, pruner and budget apply: those of the newest file that was given on purpose.

They may change while a study goes on, by a changed file or another --set. The database keeps the settings and the
files that gave them, in their order: a worker that is merely started again, or has an older copy, changes nothing back.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from search.spec.arms import Arm
from search.spec.identity import difference, digest
from search.spec.load import StudySpec
from search.storage.searches import SERIES, SERIES_WISH, ArmRow
from trainer.data.openings import who
from trainer.errors import UserError

_FILES = "files"
"""The key, beside the settings, of the list of files that were seen (as `_key` names them), the newest last."""
_MARKED = "marked"
"""The key of a flag: all studies of this search carry the mark of `search.storage.ownership`."""
_OWNER = "owner"
"""The key of who began the search, as `account@host`; searches from before it have none."""
_MOST = 500
"""Files that are remembered."""


def settings(spec: StudySpec) -> dict[str, Any]:
    """What may change while a study goes on."""
    names = ("sampler", "pruner", "budget", "confirm", "dashboard")
    arms = {arm.name: {"trials": arm.trials, "in_flight": arm.in_flight} for arm in spec.arms}
    more = {"warm_start": spec.warm_start, "published": spec.published, SERIES: spec.series}
    given = {name: value.model_dump(mode="json") for name, value in more.items() if value is not None}
    if spec.front is not None and spec.front.spread != "equal":  # what it is along is part of the identity
        given["front"] = spec.front.model_dump(mode="json", exclude={"along"})
    return {**{name: getattr(spec, name).model_dump(mode="json") for name in names}, "arms": arms, **given}


def stored(spec: StudySpec, before: str | None) -> str:
    """The settings of a file as the database keeps them, after those that it kept before."""
    files = [] if before is None else [each for each in _files(before) if each != _key(spec)]
    began = who() if before is None else owner(before)
    owned = {} if began is None else {_OWNER: began}
    wish = None if before is None else series_wish(before)
    wished = {} if wish is None else {SERIES_WISH: wish}
    kept = {**settings(spec), _FILES: [*files, _key(spec)][-_MOST:], _MARKED: True, **owned, **wished}
    return json.dumps(kept, allow_nan=False, sort_keys=True)


def owner(kept: str) -> str | None:
    """Who began a search, as `account@host`, from the settings that the database keeps; None: not known."""
    known = json.loads(kept).get(_OWNER)
    return None if known is None else str(known)


def series_wish(kept: str) -> str | None:
    """What a person wished of the whole series of a search, `stop` or `close`, from the settings that the database
    keeps; None: nothing."""
    wish = json.loads(kept).get(SERIES_WISH)
    return None if wish is None else str(wish)


def superseded(spec: StudySpec, before: str) -> bool:
    """Whether this very file held before and another one was given since."""
    return _key(spec) in _files(before)[:-1]


def changes(spec: StudySpec, before: str) -> list[str]:
    """What of the settings differs between the database and a file, a line each: `budget.trials: 40 -> 80`."""
    kept = json.loads(before)
    kept = {name: value for name, value in kept.items() if name not in (_FILES, _MARKED, _OWNER, SERIES_WISH)}
    return difference(kept, settings(spec))


def with_budgets(arms: Mapping[int, Arm], rows: Sequence[ArmRow]) -> dict[int, Arm]:
    """The arms by study id, with the budgets of their rows in the database.

    A worker with a newer file may have changed them since this one joined.
    """
    by_study = {row.study_id: row for row in rows}
    return {
        study_id: replace(arm, trials=by_study[study_id].trials, in_flight=by_study[study_id].in_flight)
        if study_id in by_study
        else arm
        for study_id, arm in arms.items()
    }


def _files(before: str) -> list[str]:
    return list(json.loads(before).get(_FILES, []))


def _key(spec: StudySpec) -> str:
    """A name for a file's text and the values of --set: one more comment makes another file, to restore old values."""
    if spec.confirms is not None:
        return "planned"  # once, in the database
    try:
        text = hashlib.sha256(spec.file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{spec.file}: cannot be read ({error.strerror}); give a study file") from error
    return digest({"file": text, "set": list(spec.overrides)})[:16]
