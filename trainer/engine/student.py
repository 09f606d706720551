"""One member of a cohort: its network, losses, optimizer, schedule, random state and fate.

Each member draws from a random state of its own, scales its loss in fp16, and measures on the first batch of an epoch
what share each loss term has in its gradient.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import losses
import models
from losses.term import Loss, Term
from models.nearest import OptionError
from models.output import Output, Segmenter, Taps, whole
from models.recompute import recomputing
from trainer import checkpoint
from trainer.config import Precision, RunConfig
from trainer.data.classes import dims_of, normalisation_of, size_of
from trainer.data.dataset import DataSet
from trainer.data.splits.near_duplicates import packed
from trainer.distributed.ranks import Ranks, ToHost
from trainer.engine.class_counts import counted_weights
from trainer.engine.flat_parameters import (
    ANY_FAILED,
    COUNTS,
    FAILED,
    NOT_FINITE,
    STOP,
    Flat,
    Room,
    host,
    pack,
    unpack,
)
from trainer.engine.optim import Average, Optimizer, Schedule
from trainer.errors import CheckpointError
from trainer.evaluation.metrics import Scores, autocast
from trainer.evaluation.monitored import sign_of
from trainer.failures import LocalFailure, local_failure
from trainer.reports import Saved
from trainer.repository import expand
from trainer.seeds import derive

FORMAT = 3
"""The version of a member's state on disk."""


class StepFlags(NamedTuple):
    """What the ranks know of a member after a step, equal on all of them."""

    failed: float
    """Above 0 where the member failed for good."""
    stop: float
    """How many ranks wish to stop."""


class Student:
    """Everything that one run changes while it trains.

    A step is `forward`, a sum over the ranks of what it returns, `backward`, a sum of what that returns, `update`. None
    of them raises for a mistake of the member alone: `local_failure` says what went wrong here, a flag stands in for
    it.

    teacher: the taps of the teacher that the losses may read; steps: of an epoch; monitor: the score whose best epoch
    is kept.
    Raises what building raises: CheckpointError, ValueError, out of memory.
    """

    def __init__(
        self,
        run: RunConfig,
        data: DataSet,
        *,
        teacher: Taps | None,
        steps: int,
        ranks: Ranks,
        monitor: str,
    ) -> None:
        self.run, self.monitor = run, monitor
        self._ranks, self._device = ranks, ranks.device
        self._data = data
        self.draws = Draws(ranks.device, derive(run.seed, "init"))
        self.network, self.losses = self._build(teacher)
        self._student_taps = frozenset[str]().union(*(loss.student_taps() for loss in self._loss_list))
        self.teacher_taps = frozenset[str]().union(*(loss.teacher_taps() for loss in self._loss_list))
        """What the losses read of a teacher beside its logits."""
        self._remembering = [loss for loss in self._loss_list if loss.offer_size]
        self._reads_heads = any(loss.reads_heads for loss in self._loss_list)
        self.flat = Flat(nn.ModuleList([self.network, self.losses]))
        self.optimizer = Optimizer(run.optim, self.flat.weights)
        self.schedule = Schedule(run.optim, epochs=run.epochs, steps=steps)
        self.scale = Scale(run.precision, ranks.device)
        self._weights = {name: term.weight for name, term in run.live_terms().items()}
        self._shares = Shares(len(self._weights), self._device)
        # The network that is scored and exported: the trained one, or the average of its weights.
        self.eval_network = self.network
        self._average = self._averaging() if run.optim.ema else None
        self.epoch = 0
        """Own epochs that are over."""
        self.iteration = 0
        self.best: dict[str, Any] | None = None
        self._begin()

    def _build(self, teacher: Taps | None) -> tuple[Segmenter, nn.ModuleDict]:
        with self.draws.swapped_in():
            network = self._drawn()
            terms = {
                name: losses.build(
                    name,
                    counted_weights(term, self._data),
                    student=network.taps,
                    teacher=teacher,
                    classes=self._data.classes,
                    regions=self._data.regions is not None,
                    dims=dims_of(self.run.data),
                    heads=network.deep_heads,
                )
                for name, term in self.run.live_terms().items()
            }
        start = self.run.student.checkpoint
        if start is not None:
            path = expand(start, "student.checkpoint", error=CheckpointError)
            file = checkpoint.weights(path)
            checkpoint.refuse_other_normalisation(file, network.normalisation, path)
            checkpoint.fill(network, file.tensors, path)
        return network.to(self._device), nn.ModuleDict(terms).to(self._device)

    def _drawn(self) -> Segmenter:
        """The network, its weights drawn or pretrained. Raises CheckpointError where those cannot be had."""
        data = self.run.data
        try:
            return models.build(
                self.run.student,
                in_channels=self._data.channels,
                classes=self._data.classes,
                size=size_of(data),
                dims=dims_of(data),
                normalisation=normalisation_of(data),
            )
        except OptionError as error:
            raise CheckpointError(str(error)) from error

    def _averaging(self) -> Average:
        # The network's parameters come first in the flat weights, and a copy of it has the same layout: one kernel.
        self.eval_network, mean = self.flat.copied(self.network)
        self._followed = {"": self.flat.weights[: len(mean)], **dict(self.network.named_buffers())}
        return Average({"": mean, **dict(self.eval_network.named_buffers())}, self.schedule.total)

    @property
    def _loss_list(self) -> list[Loss]:
        return list(self.losses.values())  # type: ignore[arg-type]  # a ModuleDict knows modules alone

    @property
    def needs_teacher(self) -> bool:
        return any(loss.needs_teacher for loss in self._loss_list)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.run.epochs

    def begin_epoch(self) -> None:
        """Draw from the seed of the coming epoch, so that no random state needs to be kept between epochs."""
        self.draws.reseed(derive(self.run.seed, "train", self.epoch + 1, self._ranks.rank))
        self.network.train()
        self._begin()
        try:
            for loss in self._loss_list:
                loss.begin_epoch(self.epoch + 1, self.run.epochs)
        except Exception as error:  # noqa: BLE001 - it becomes this member's fault, which the ranks agree on
            self.fail(error)

    def _begin(self) -> None:
        self._shares.begin()
        self.fault: LocalFailure | None = None
        self._terms: dict[str, Term] = {}
        self._dead = torch.zeros((), dtype=torch.bool, device=self._device)
        self._stop = torch.zeros((), dtype=torch.float64, device=self._device)
        self._values = torch.zeros(len(self._weights), dtype=torch.float64, device=self._device)
        # sums of the terms over the epoch's good steps, and how many those were
        self._parts = torch.zeros(len(self._weights) + 1, dtype=torch.float64, device=self._device)

    def fail(self, error: Exception) -> None:
        """Remember what went wrong on this rank. Raises what is no single member's fault."""
        self.fault = self.fault or local_failure(error, self.run)
        self._terms = {}

    def forward(self, images: Tensor | None, target: Tensor | None, teacher: Output | None) -> Tensor:
        """This rank's part of the batch: normalised images (N, C, *S), target as `Loss` has it; None where none is.

        Returns float64 [count of each live term ..., failed, stop], to be summed over the ranks.
        """
        self._terms = {}
        if self.fault is None and images is not None and target is not None and len(images):
            try:
                with self.draws.swapped_in():
                    with autocast(self._device, self.run.precision), recomputing(self.run.recompute):
                        output = self.network(images)
                    output = whole(output, self._student_taps, heads=self._reads_heads)
                    more = bool(self._student_taps) or self._reads_heads
                    self._shares.begin_batch(output, self.network, taps=more)
                    self._terms = {name: loss(output, teacher, target) for name, loss in self.losses.items()}
            except Exception as error:  # noqa: BLE001 - it becomes this member's fault, which the ranks agree on
                self.fail(error)
        sums = torch.zeros(len(self._weights) + len((ANY_FAILED, STOP)), dtype=torch.float64, device=self._device)
        if self._terms:
            sums[COUNTS] = torch.stack([term.count.double() for term in self._terms.values()])
        sums[ANY_FAILED] += float(self.fault is not None)
        sums[STOP] += float(self._ranks.stop_asked)
        return sums

    def offered(self) -> Tensor | None:
        """What this rank's losses add to memories that the ranks share: (ranks, numbers), zero but in its own row, to
        be summed over the ranks and given to `absorb`; None where no loss has one, on any rank."""
        sizes = [loss.offer_size for loss in self._remembering]
        if not sizes:
            return None
        shared = torch.zeros(self._ranks.world, sum(sizes), device=self._device)
        for loss, part in zip(self._remembering, torch.split(shared[self._ranks.rank], sizes), strict=True):
            offer = loss.offer() if self._terms else None
            if offer is not None:
                part.copy_(offer)
        return shared

    def absorb(self, gathered: Tensor) -> None:
        """Let losses remember what all ranks offered: what `offered` returned, summed over the ranks."""
        sizes = [loss.offer_size for loss in self._remembering]
        for loss, part in zip(self._remembering, torch.split(gathered, sizes, dim=1), strict=True):
            loss.absorb(part.contiguous())

    def backward(self, sums: Tensor) -> Tensor:
        """Compute the gradient. Returns it flat with the flags behind it, to be summed over the ranks.

        sums: what `forward` returned, summed over the ranks.
        """
        self.flat.clear()
        self._values = torch.zeros_like(self._values)
        if self._terms:
            try:
                with self.draws.swapped_in():
                    self._descend(sums)
            except Exception as error:  # noqa: BLE001 - it becomes this member's fault, which the ranks agree on
                self.fail(error)
                self.flat.clear()
        self._terms = {}
        self.flat.flags[FAILED] = (sums[ANY_FAILED] > 0) | (self.fault is not None)
        self._stop = sums[STOP]
        return self.flat.sums

    def _descend(self, sums: Tensor) -> None:
        values, weighted, total = [], [], sums.new_zeros(())
        for index, (name, term) in enumerate(self._terms.items()):
            # A term without a single unit anywhere (every voxel ignored) is 0, not 0 / 0, and so is its gradient.
            value = torch.where(sums[index] > 0, term.total, 0.0) / sums[index].clamp(min=1.0)
            values.append(value.detach())
            weighted.append(self._weights[name] * value if self._weights[name] > 0 else None)
            if weighted[-1] is not None:
                total = total + weighted[-1]
        self._shares.measure(weighted)
        if total.requires_grad:
            (total * self.scale.value).backward()  # type: ignore[no-untyped-call]
        self._values = torch.stack(values).double()
        self.flat.flags[NOT_FINITE] = ~torch.isfinite(torch.stack([total.detach(), *self._values])).all()

    def update(self) -> ToHost:
        """One step along the summed gradient where no rank flagged it. Returns the values of a `StepFlags`."""
        try:
            self._step()
        except Exception as error:  # noqa: BLE001 - it becomes this member's fault, which the ranks agree on
            # The next step's flag tells the others, or what they agree on at the end of the epoch.
            self.fail(error)
        return self._ranks.to_host(torch.stack([self._dead.double(), self._stop]))

    def _step(self) -> None:
        failed = self.flat.flags[FAILED] > 0
        # The flags lie behind the gradient and are finite; two extremes are one pass and no tensor of truths.
        extremes = torch.stack(torch.aminmax(self.flat.sums))
        finite = (self.flat.flags[NOT_FINITE] == 0) & torch.isfinite(extremes).all()
        lost = self.scale.value < self.scale.FLOOR if self.scale.moves else ~finite
        self._dead = self._dead | failed | lost
        good = finite & ~self._dead
        gradient = self.flat.gradient / self.scale.value if self.scale.moves else self.flat.gradient
        self.optimizer.step(gradient, self.schedule.rate(self.iteration), good)
        self.scale.stepped(finite)
        if self._average is not None:
            self._average.follow(self._followed, self.iteration)
        self.iteration += 1
        self._parts += torch.where(good, torch.cat([self._values, self._values.new_ones(1)]), 0.0)

    @torch.no_grad()
    def end_epoch(self) -> dict[str, float]:
        """End an epoch after its last step: buffers (running means and variances) become their mean over the ranks.

        Returns the mean of each live term over the epoch's steps, unweighted, over all ranks. Every rank calls it.
        """
        modules = [self.network, self.losses] + ([self.eval_network] if self.eval_network is not self.network else [])
        buffers = [buffer for module in modules for buffer in module.buffers()]
        sums = self._ranks.all_reduce(pack([self._shares.norms, self._parts, *buffers]))
        count, terms = len(self._shares.norms) + len(self._parts), len(self._weights)
        unpack(sums[count:] / self._ranks.world, buffers)
        *totals, steps = self._ranks.to_host(sums[:count]).get()
        norms, totals = totals[:terms], totals[terms:]
        self.shares = dict(zip(self._weights, shares(norms), strict=False))
        steps /= self._ranks.world
        self.epoch += 1
        return {name: total / steps if steps else math.nan for name, total in zip(self._weights, totals, strict=True)}

    def scored(self, validation: Scores, loss: float | None = None) -> None:
        """Take the validation of the epoch that just ended; keep its weights where it is the best so far.

        loss: on the validation images, where the schedule looks at it."""
        scores, sign = validation.means, sign_of(self.monitor)
        score = sign * scores[self.monitor]
        self.schedule.scored(score if loss is None else -loss)
        best_score = None if self.best is None else sign * self.best["scores"][self.monitor]
        if best_score is None or score > best_score or math.isnan(best_score):
            best = {"epoch": self.epoch, "scores": dict(scores), "dice": validation.images["dice"].tolist()}
            self.best = {**best, "weights": host(self.eval_network.state_dict())}

    def state(self, room: Room | None = None) -> dict[str, Any]:
        """All that a resumed run must know; tensors are copies on the host, in `room` where there is one."""
        copies = (room or Room()).copies
        return {
            "format": FORMAT,
            "run": self.run.model_dump_json(),
            "data": self._data.content_hash,
            "epoch": self.epoch,
            "iteration": self.iteration,
            "network": copies("network", self.network.state_dict()),
            "losses": copies("losses", self.losses.state_dict()),
            "average": None if self._average is None else copies("average", self.eval_network.state_dict()),
            "optimizer": copies("optimizer", self.optimizer.state),
            "schedule": self.schedule.state_dict(),
            "scale": self.scale.state.to("cpu", copy=True),
            "best": self.best,
        }

    def load(self, state: Mapping[str, Any], path: object) -> None:
        """Go on from what `state` gave. Raises CheckpointError where it is another run's or of another format."""
        if state.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: state of format {state.get('format')}, expected {FORMAT}; start the run anew"
            )
        if state.get("data") != self._data.content_hash:
            raise CheckpointError(f"{path}: was trained on other data; resume with the data set it began with")
        if state.get("run") != self.run.model_dump_json():
            raise CheckpointError(f"{path}: belongs to another run; resume a run with the configuration it began with")
        try:
            checkpoint.fill(self.network, state["network"], str(path))
            checkpoint.fill(self.losses, state["losses"], str(path))
            if self._average is not None:
                checkpoint.fill(self.eval_network, state["average"], str(path))
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.scale.state.copy_(state["scale"])
            self.best, self.epoch, self.iteration = state["best"], state["epoch"], state["iteration"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: incomplete state ({error}); start the run anew") from error

    def export(self, path: Path) -> Saved:
        """Write the weights of the best epoch as safetensors, with attributes: network (its options), channels,
        classes, data (content hash), train_images (sha256 of each), train_sketches (of each, as
        `trainer.data.splits.near_duplicates.packed` writes them), scores, epoch, run.

        Raises ValueError before the first validation.
        """
        if self.best is None:
            raise ValueError(f"{path}: no epoch was scored yet, so there is no best one to export")
        attributes = {
            "network": self.run.student.model_dump(mode="json", exclude={"checkpoint"}),
            "channels": self._data.channels,
            "classes": self._data.classes,
            "data": self._data.content_hash,
            "train_images": list(self._data.image_hashes("train")),
            "train_sketches": packed(self._data.sketches("train")),
            "scores": self.best["scores"],
            "epoch": self.best["epoch"],
            "run": self.run.model_dump(mode="json"),
        }
        return checkpoint.export(path, self.best["weights"], attributes)


class Draws:
    """The state of torch's generators on the host and on one device, swapped in while its owner draws."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device = device
        self._states: list[Tensor] = []
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start again from a seed."""
        outer = self._now()
        torch.manual_seed(seed)
        self._states = self._now()
        self._set(outer)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Draw from this state; the outer one is back afterwards, unchanged."""
        outer = self._now()
        self._set(self._states)
        try:
            yield
        finally:
            self._states = self._now()
            self._set(outer)

    def _now(self) -> list[Tensor]:
        on_device = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return [torch.get_rng_state(), *on_device]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self._device)


class Shares:
    """Norms of the gradients of a student's weighted loss terms, once an epoch; nothing waits for the device.

    Where every term reads the logits alone the gradient is with respect to them, which costs no pass through the
    network. Where one reads taps or heads it is with respect to the network's weights, the only thing that all terms
    move; that costs a backward pass a term. Neither draws a random number or touches the gradient that is trained with.
    """

    def __init__(self, terms: int, device: torch.device) -> None:
        self.norms = torch.zeros(terms, dtype=torch.float64, device=device)
        """The norm of each term's gradient on this rank's images; zero before the first batch."""
        self._wanted = True
        self._leaves: list[Tensor] = []

    def begin(self) -> None:
        """An epoch begins."""
        self.norms = torch.zeros_like(self.norms)
        self._wanted, self._leaves = True, []

    def begin_batch(self, output: Output, network: nn.Module, *, taps: bool) -> None:
        """Call it before the terms of a batch are computed from the student's output. taps: whether one reads more of
        it than the logits."""
        if self._wanted:
            weights: list[Tensor] = [weight for weight in network.parameters() if weight.requires_grad]
            self._leaves = weights if taps else [output.logits]

    def measure(self, terms: Sequence[Tensor | None]) -> None:
        """Measure the weighted terms of the batch, before they go backward; None stands for a term of weight zero."""
        leaves, self._leaves = self._leaves, []
        if self._wanted:
            self._wanted = False
            self.norms = torch.stack([_norm(term, leaves, self.norms) for term in terms])


def _norm(term: Tensor | None, leaves: Sequence[Tensor], like: Tensor) -> Tensor:
    if term is None or not term.requires_grad:
        return like.new_zeros(())
    gradients = torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True)
    squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().sqrt() if squares else like.new_zeros(())


def shares(norms: Sequence[float]) -> list[float]:
    """Each norm over the sum of all; nothing where that is zero or not finite."""
    total = sum(norms)
    return [norm / total for norm in norms] if 0 < total < float("inf") else []


class Scale:
    """What keeps small gradients alive in fp16: the loss is multiplied, the gradient divided, on the device.

    Halved by each step whose gradient is not finite (which is then skipped), doubled after 2000 good ones
    (Micikevicius et al. 2018, section 3.2). For other precisions it is 1 and stays.
    """

    START, GROW_AFTER, FLOOR = 2.0**16, 2000, 2.0**-16

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.moves = precision == "fp16"
        # value, good steps since it last changed
        self.state = torch.tensor([self.START if self.moves else 1.0, 0.0], device=device)

    @property
    def value(self) -> Tensor:
        return self.state[0]

    def stepped(self, good: Tensor) -> None:
        """Adapt to whether the step's gradient was finite (boolean scalar on the device)."""
        if not self.moves:
            return
        since = self.state[1] + 1
        grows = since >= self.GROW_AFTER
        after_good = torch.stack([torch.where(grows, 2 * self.value, self.value), torch.where(grows, 0 * since, since)])
        after_bad = torch.stack([self.value / 2, 0 * since])
        self.state.copy_(torch.where(good, after_good, after_bad))
