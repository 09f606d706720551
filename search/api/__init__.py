"""A search from Python: load a study, work on it, watch it, and read trials, confirmation and report as data frames.

    from search.api import Study

    study = Study.load("studies/polyp-kd.toml")
    study.work(ranks=1)
    study.trials().sort_values("score").tail()
    study.confirm()
    study.tables()["claims"]

Commands run as child processes, as a shell would run them: a kernel that is killed loses no trial, and what they write
can be continued by any worker. Data frames need pandas (the `api` extra).
"""

from search.api.commands import CommandError, Job
from search.api.study import Study, predict
from trainer.errors import UserError

__all__ = ["CommandError", "Job", "Study", "UserError", "predict"]
