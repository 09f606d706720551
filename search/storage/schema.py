"""The tables of our own beside Optuna's, in the same database: who runs which trial, and what came of it.

Optuna's rows hold numbers, parameters and values; these hold the life of a trial. Both are written in one transaction.
"""

import sqlalchemy as sa

VERSION = 3
"""Raised with every change of these tables. 2: kd_search.noted. 3: kd_lease.weights_sha256, kd_opening, kd_finding."""

metadata = sa.MetaData()

version_row = sa.Table("kd_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))

searches = sa.Table(
    "kd_search",
    metadata,
    sa.Column("search_id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(128), unique=True, nullable=False),
    # Drawn when the search is first seen; names folders, so that a deleted and re-created study never meets old files.
    sa.Column("uuid", sa.String(32), nullable=False),
    sa.Column("identity", sa.String(64), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    # Sampler, pruner, budget and arms as last seen: they may change, and a change is logged.
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("stop", sa.String(16)),
    sa.Column("closed", sa.Boolean, nullable=False, default=False),
    sa.Column("max_failed", sa.Integer, nullable=False),
    sa.Column("gpu_hours", sa.Float),
    sa.Column("wall_seconds", sa.Float),
    # Seconds since 1970 by the database's clock.
    sa.Column("began", sa.Float),
    # When a lead last set out to write the notes for the dashboard, by the same clock; null: never.
    sa.Column("noted", sa.Float),
)

arms = sa.Table(
    "kd_arm",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("search_id", sa.Integer, sa.ForeignKey("kd_search.search_id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("study_name", sa.String(300), nullable=False),
    sa.Column("identity", sa.String(64), nullable=False),
    sa.Column("trials", sa.Integer, nullable=False),
    sa.Column("in_flight", sa.Integer, nullable=False),
)

HELD, FREE, PAUSED, FINISHED = "held", "free", "paused", "finished"

leases = sa.Table(
    "kd_lease",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(200)),
    sa.Column("host", sa.String(100)),
    # Raised whenever the trial changes hands: a write with an older token is refused.
    sa.Column("token", sa.Integer, nullable=False),
    # Counts up while the holder lives; who watches it stand still may adopt the trial.
    sa.Column("beat", sa.Integer, nullable=False),
    sa.Column("lost", sa.Integer, nullable=False, default=0),
    # The resolved run, strict JSON. Null: nothing was trained yet, the parameters may be incomplete.
    sa.Column("run", sa.Text),
    sa.Column("replay", sa.Text),
    sa.Column("checkpoint", sa.Text),
    sa.Column("checkpoint_sha256", sa.String(64)),
    sa.Column("epoch", sa.Integer, nullable=False, default=0),
    sa.Column("best_epoch", sa.Integer),
    sa.Column("best_score", sa.Float),
    sa.Column("scores", sa.Text),
    sa.Column("seconds", sa.Text),
    sa.Column("gpu_seconds", sa.Float, nullable=False, default=0.0),
    sa.Column("environment", sa.Text),
    sa.Column("weights", sa.Text),
    sa.Column("weights_sha256", sa.String(64)),
    sa.Column("failure", sa.String(32)),
    sa.Column("message", sa.Text),
    sa.CheckConstraint("state IN ('held', 'free', 'paused', 'finished')", name="kd_lease_state"),
)

attempts = sa.Table(
    "kd_attempt",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("token", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("host", sa.String(100), nullable=False),
    sa.Column("first_epoch", sa.Integer, nullable=False),
    sa.Column("began", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
    # finished, pruned, preempted, lost, or the failure's kind.
    sa.Column("why", sa.String(32)),
)

orphans = sa.Table(
    "kd_orphan",
    metadata,
    sa.Column("orphan_id", sa.Integer, primary_key=True),
    sa.Column("trial_id", sa.Integer, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
)

# Who opened the test rows for a study, when and for what: kept for ever, whatever becomes of the study.
openings = sa.Table(
    "kd_opening",
    metadata,
    # Of the search whose winners were confirmed; a name that is used again inherits what was seen under it.
    sa.Column("study", sa.String(128), primary_key=True),
    # Of the confirmation.
    sa.Column("uuid", sa.String(32), primary_key=True),
    sa.Column("who", sa.String(200), primary_key=True),
    # Seconds since 1970 by the database's clock.
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("configurations", sa.Text, nullable=False),
)

# What a trained network did on each image of one part of the data; written with the end of its trial.
findings = sa.Table(
    "kd_finding",
    metadata,
    # Of the confirmation: ids of deleted trials are given out again, this is not.
    sa.Column("uuid", sa.String(32), primary_key=True),
    # 0: the teacher.
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("part", sa.String(128), primary_key=True),
    sa.Column("record", sa.Text, nullable=False),
)
