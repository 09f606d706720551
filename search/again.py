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
    above = (values.c.trial_id == trial_id) & (values.c.step > epoch)
    scores = set(connection.execute(sa.select(values.c.intermediate_value).where(above)).scalars())
    if not scores:
        return
    connection.execute(values.delete().where(above))
    mine = (notes.c.trial_id == trial_id) & notes.c.key.startswith(RUNG, autoescape=True)
    rows = connection.execute(sa.select(notes.c.key, notes.c.value_json).where(mine)).all()
    # From the highest one down: a lower rung may hold the same score, from an epoch that stays.
    for row in sorted(rows, key=lambda row: int(row.key.removeprefix(RUNG)), reverse=True):
        score = json.loads(row.value_json)
        if (score if math.isfinite(score) else None) not in scores:
            return
        connection.execute(notes.delete().where(mine & (notes.c.key == row.key)))
