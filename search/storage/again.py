"""What a trial said of epochs that it trains again."""

import json
import math
from collections.abc import Mapping

import sqlalchemy as sa

RUNG = "completed_rung_"
"""What a halving pruner's notes on a trial are called, with the rung's number: the score that reached it."""


def forget_above(connection: sa.Connection, tables: Mapping[str, sa.Table], trial_id: int, epoch: int) -> None:
    """Delete a trial's reports above `epoch`, and what a halving pruner noted of them.

    An epoch that is trained again may come out otherwise, as the data stand elsewhere: were its note kept, it would
    not be judged, and rivals would be measured against a score that is on no curve.
    """
    values, notes = tables["trial_intermediate_values"], tables["trial_system_attributes"]
    of_trial = values.c.trial_id == trial_id
    gone = set(
        connection.execute(sa.select(values.c.intermediate_value).where(of_trial, values.c.step > epoch)).scalars()
    )
    if not gone:
        return
    connection.execute(values.delete().where(of_trial, values.c.step > epoch))
    # A student that learns nothing has the same score in each epoch: then the note may be of one that stays.
    gone -= set(connection.execute(sa.select(values.c.intermediate_value).where(of_trial)).scalars())
    mine = (notes.c.trial_id == trial_id) & notes.c.key.startswith(RUNG, autoescape=True)
    for row in connection.execute(sa.select(notes.c.key, notes.c.value_json).where(mine)).all():
        score = json.loads(row.value_json)
        if (score if math.isfinite(score) else None) in gone:
            connection.execute(notes.delete().where(mine & (notes.c.key == row.key)))
