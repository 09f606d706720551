"""Students that train side by side in one process, or in one group of ranks."""

import io
from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from trainer import checkpoint
from trainer.config import Replay, RunConfig
from trainer.data import stream_key
from trainer.data.dataset import cases_of
from trainer.distributed.ranks import Ranks
from trainer.engine.epoch import CohortMember, StreamEpoch
from trainer.engine.resources import SharedResources
from trainer.engine.student import Student
from trainer.engine.timers import Stopwatch
from trainer.engine.validation_loss import validation_loss
from trainer.errors import nearest
from trainer.evaluation.metrics import Scores, validate
from trainer.evaluation.per_image import FinalEvaluation, evaluate_per_image, scored_units
from trainer.evaluation.score_names import SCORE_KINDS
from trainer.failures import LocalFailure, local_failure
from trainer.figures.cases import with_weights
from trainer.figures.worst import worst_and_median
from trainer.reports import EpochReport, Failure, PerImageResult, Pulse, Resume, Saved, Write
from trainer.teacher.stored_logits import refuse_taps

CASES = 3
"""Images of each kind in a member's picture: the worst, and those around the median."""


class Cohort:
    """The `Students` that really train.

    Runs of one stream key share its batches and the passes of their teacher; each has its own weights, losses,
    optimizer, schedule, random state and fate, so that a run gives the same numbers alone and among others.

    The next epoch of a stream is the one after the last that its members trained here. With no such member it is the
    one after the newest checkpoint that its members resume, or 0 where none resumes. So a cohort that is restarted from
    its checkpoints goes on as if it had never stopped. A member that joins begins with that epoch of the stream, which
    its replay records; a member admitted with `follow` goes through the stream epochs recorded there instead.

    cache: the folder of decoded data. monitor: the score whose best epoch is exported.
    resources: data, streams and teachers that are open already; None: this cohort opens its own.
    counters: what was done with them so far.
    pulse: hears how far an epoch is; given on the lead alone.
    examination: measure the best epoch's weights on these parts after a run's last epoch. Then runs are to be compared
    in pairs: each goes through its stream from epoch 0, whenever it joins, as if admitted with `follow`.
    """

    def __init__(
        self,
        ranks: Ranks,
        *,
        slots: int,
        cache: Path,
        monitor: str = "dice",
        examination: FinalEvaluation | None = None,
        resources: SharedResources | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        if monitor.partition(".")[0] not in SCORE_KINDS:
            raise ValueError(f"monitor = {monitor!r}: unknown score{nearest(monitor, SCORE_KINDS)}")
        self._resources = resources or SharedResources(ranks, cache)
        self.counters = self._resources.counters
        self._ranks, self._slots, self._monitor = ranks, slots, monitor
        self._examination, self._pulse = examination, pulse
        self._members: dict[int, CohortMember] = {}

    def admit(self, key: int, run: RunConfig, resume: Resume | None = None, *, follow: Replay | None = None) -> None:
        """Take a run into a free slot. Raises ValueError where no slot is free, the key is taken, or `follow` does not
        begin at own epoch 1.

        Where the run cannot be built or resumed, perhaps on this rank alone, the next `epoch` reports its failure.
        """
        taken = {member.slot for member in self._members.values()}
        free = [slot for slot in range(self._slots) if slot not in taken]
        if key in self._members:
            raise ValueError(f"key {key}: already in the cohort; dismiss it first")
        if not free:
            raise ValueError(f"key {key}: no free slot, all {self._slots} are taken; dismiss a member first")
        if follow is not None and (not follow or follow[0][0] != 1):
            raise ValueError(f"replay: {list(follow)} does not begin at own epoch 1")
        if follow is None and self._examination is not None:
            follow = ((1, 0),)
        member = CohortMember(key, run, free[0], follow)
        self._members[key] = member
        try:
            self._build(member, resume)
        except Exception as error:  # noqa: BLE001 - the ranks agree on it at the next epoch
            member.fault, member.student = local_failure(error, run), None

    def _build(self, member: CohortMember, resume: Resume | None) -> None:
        run = member.run
        data = self._resources.data(run)
        member.stream = self._resources.stream(run)
        member.student = Student(
            run,
            data,
            teacher=self._resources.taps(run),
            steps=member.stream.steps,
            ranks=self._ranks,
            monitor=self._monitor,
        )
        refuse_taps(run, member.student.teacher_taps)
        if resume is not None and resume.checkpoint is not None:
            state = checkpoint.load(resume.checkpoint)
            member.student.load(state, resume.checkpoint)
            joins: Replay = resume.replay or tuple((own, stream) for own, stream in state.get("replay", ()))
            member.replay = tuple(join for join in joins if join[0] <= member.student.epoch)

    def dismiss(self, key: int) -> None:
        """Forget a member, trained or not. Raises KeyError where there is none."""
        del self._members[key]

    def epoch(self) -> dict[int, EpochReport | Failure]:
        """Train every member that has epochs left for one. Members that failed are gone afterwards.

        Raises Stopped, also between two images that are scored: then the epoch is trained again from the checkpoint
        before, to the same bits.
        """
        with self._ranks.watchdog.watching():
            return self._epoch()

    def _epoch(self) -> dict[int, EpochReport | Failure]:
        watch = Stopwatch(self._ranks)
        self._resources.count_pictures()
        forwards, steps = self.counters.teacher_forwards, self.counters.student_steps
        results: dict[int, EpochReport | Failure] = {**self._agree_on_admissions()}
        next_stream_epoch = self._next_stream_epochs()
        groups: dict[tuple[Hashable, int], list[CohortMember]] = {}
        for member in sorted(self._members.values(), key=lambda member: member.slot):
            if member.key in next_stream_epoch:
                groups.setdefault((stream_key(member.run), next_stream_epoch[member.key]), []).append(member)
        self._resources.drop_prefetch_except({name for name, _ in groups})
        for (_, position), members in groups.items():
            results |= StreamEpoch(
                self._ranks, members, position, self._resources, watch, self.counters, self._pulse
            ).run()
            self._prepare(members, position + 1)
        reports: dict[int, EpochReport] = {}
        for (_, position), members in groups.items():
            for member in members:
                report = self._close(member, position, watch)
                if isinstance(report, Failure):
                    results[member.key] = report
                else:
                    reports[member.key] = report
        for key in [key for key, report in results.items() if isinstance(report, Failure)]:
            del self._members[key]
        if reports:
            passes = (self.counters.teacher_forwards - forwards) / max(self.counters.student_steps - steps, 1)
            for key, seconds in watch.shares(list(reports)).items():
                results[key] = replace(reports[key], seconds=seconds, passes=passes)
        return results

    def _prepare(self, members: list[CohortMember], position: int) -> None:
        """Threads make the first batches of a stream's next epoch while this thread validates and the lead reports."""
        if any(member.trained.epoch + 1 < member.run.epochs for member in members):
            self._resources.stream(members[0].run).prepare(position)

    def _agree_on_admissions(self) -> dict[int, Failure]:
        """Agree on who was admitted since the last epoch; those that some rank could not build have failed."""
        new = [member for member in self._members.values() if not member.agreed]
        failures = {}
        if new:
            states = [(member.fault, member.student.epoch if member.student else 0) for member in new]
            for member, answers in zip(new, zip(*self._ranks.all_gather(states), strict=True), strict=True):
                member.agreed = True
                faults = [local_failure for local_failure, _ in answers if local_failure is not None]
                if faults:
                    epoch = max(epoch for _, epoch in answers) + 1
                    failures[member.key] = Failure(faults[0].kind, faults[0].message, epoch, faults[0].detail)
                    member.fault = faults[0]
        return failures

    def _next_stream_epochs(self) -> dict[int, int]:
        """The stream epoch that each member with epochs left trains next."""
        ready = [member for member in self._members.values() if member.fault is None and not member.trained.finished]
        next_stream_epoch: dict[Hashable, tuple[bool, int]] = {}
        for member in ready:
            if member.follow is None and member.replay:
                name = stream_key(member.run)
                # Members that trained here outrank those that resume; among equals the newest counts.
                next_stream_epoch[name] = max(
                    next_stream_epoch.get(name, (False, 0)), (member.ran, _at(member.replay, member.trained.epoch + 1))
                )
        return {
            member.key: next_stream_epoch.get(stream_key(member.run), (False, 0))[1]
            if member.follow is None
            else _at(member.follow, member.trained.epoch + 1)
            for member in ready
        }

    def _close(self, member: CohortMember, position: int, watch: Stopwatch) -> EpochReport | Failure:
        """The end of a member's epoch: buffers averaged, scored where that is due, the join recorded."""
        student, run = member.trained, member.run
        losses = student.end_epoch()
        epoch = student.epoch
        if not member.replay or _at(member.replay, epoch) != position:
            member.replay = (*member.replay, (epoch, position))
        member.ran = True
        means: dict[str, float] | None = None
        if run.validation.due(epoch, run.epochs):
            with watch.part("validation", [member.key]):
                scored = self._scored(member)
            if isinstance(scored, LocalFailure):
                return Failure(scored.kind, scored.message, epoch, scored.detail)
            means = scored[0].means
            student.scored(*scored)
        seen = self._examined(member, watch) if student.finished else None
        if isinstance(seen, LocalFailure):
            return Failure(seen.kind, seen.message, epoch, seen.detail)
        return EpochReport(epoch, position, means, losses, {}, student.finished, measured=seen, shares=student.shares)

    def _examined(self, member: CohortMember, watch: Stopwatch) -> tuple[PerImageResult, ...] | LocalFailure | None:
        """The best epoch's weights on every part; None where nothing is examined."""
        best = member.trained.best
        if self._examination is None or best is None:
            return None
        with watch.part("examination", [member.key]):
            network = with_weights(member.trained.eval_network, best["weights"])
            return evaluate_per_image(
                network, member.run, self._resources.data(member.run), self._examination, self._ranks, self._pulse
            )

    def _scored(self, member: CohortMember) -> tuple[Scores, float | None] | LocalFailure:
        """The scores on validation, and the loss there where the schedule looks at it."""
        student, describe = member.trained, partial(local_failure, run=member.run)
        scores = self._ranks.attempt(lambda ranks: self._score(member, ranks), describe)
        if isinstance(scores, LocalFailure) or not student.schedule.looks_at_loss:
            return scores if isinstance(scores, LocalFailure) else (scores, None)
        loss = self._ranks.attempt(lambda ranks: validation_loss(student, self._resources, ranks), describe)
        return loss if isinstance(loss, LocalFailure) else (scores, loss)

    def _score(self, member: CohortMember, ranks: Ranks) -> Scores:
        data = self._resources.data(member.run)
        precision, monitor = member.run.precision, self._monitor
        return validate(
            member.trained.eval_network,
            data,
            "validation",
            ranks=ranks,
            precision=precision,
            monitor=monitor,
            progress=scored_units(self._pulse, "validation", member.run.data),
        )

    def replay(self, key: int) -> Replay:
        """The joins of a member so far: (own epoch, stream epoch) wherever it did not simply take the next epoch."""
        return self._members[key].replay

    def snapshot(self, key: int) -> Write:
        """Copy all of a member's state, to be written before the next such copy; the lead alone calls it."""
        member = self._members[key]
        state = {**member.trained.state(member.room), "replay": [list(join) for join in member.replay]}
        return partial(checkpoint.save, state=state)

    def export(self, key: int, path: Path) -> Saved:
        """Write the weights of a member's best epoch, with what a reader must know about them; the lead alone calls it.

        Raises ValueError before the first validation.
        """
        return self._members[key].trained.export(path)

    def picture(self, key: int, path: Path) -> Path | None:
        """Draw a member's worst and median validation cases at its best epoch; the lead alone calls it, between epochs.

        Which they are is known from the validation of that epoch, so that only these few images go through student and
        teacher. None before the first validation.
        """
        member = self._members[key]
        best, run, data = member.trained.best, member.run, self._resources.data(member.run)
        if best is None:
            return None
        seen = {
            "teacher": self._resources.visible(run),
            "student": with_weights(member.trained.eval_network, best["weights"]),
        }
        networks = {name: network for name, network in seen.items() if network is not None}
        dice = np.array(best["dice"])
        mean, cases = best["scores"]["dice"], cases_of(data.samples("validation"))
        scored = f"{len(dice)} validation images" if cases is None else f"{max(cases) + 1} validation cases"
        title = f"epoch {best['epoch']}: mean Dice {mean:.3f} on {scored}"
        picture = worst_and_median(
            title, data, dice, networks, each=CASES, device=self._ranks.device, precision=run.precision
        )
        content = io.BytesIO()
        picture.save(content, format="PNG")
        return checkpoint.write(path, content.getvalue()).path


def _at(replay: Replay, epoch: int) -> int:
    """The stream epoch of an own epoch, as the last join before it says."""
    own, stream = max(join for join in replay if join[0] <= epoch)
    return stream + epoch - own
