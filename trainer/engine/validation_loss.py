"""The loss of a run on its validation images, the teacher's terms included: what `plateau` may look at."""

import numpy as np
import torch
from torch import Tensor

from losses.deep_supervision import DeepSupervision
from losses.term import Loss, Term
from models.output import whole
from trainer.config import RunConfig
from trainer.data.dataset import DataSet
from trainer.data.streams.batches import Batch, BatchImages
from trainer.data.streams.scored import ScoredBatch, scored
from trainer.distributed.ranks import Ranks
from trainer.engine.resources import SharedResources
from trainer.engine.student import Draws, Student
from trainer.evaluation.metrics import autocast
from trainer.seeds import derive


def validation_loss(student: Student, resources: SharedResources, ranks: Ranks) -> float:
    """The sum of weight times term over the live terms, each its mean over the validation images.

    Images and labels are those that the networks see, of one size and without augmentation. The student is the network
    that is scored. Losses of deep supervision read the logits alone, since heads are there in training only. Batches do
    not depend on the world size and are added up in their order, so that all worlds see one loss. Losses that draw do
    so from a state of their own: training goes on as if nothing had been looked at. Raises DataError, and what a
    teacher raises that cannot be asked about these images.
    """
    run, data = student.run, resources.data(student.run)
    weights = {name: term.weight for name, term in run.live_terms().items()}
    size = run.batch_size
    batches = -(-len(data.samples("validation")) // size)
    sums = torch.zeros(batches, len(weights), 2, dtype=torch.float64, device=ranks.device)
    network, training = student.eval_network, student.eval_network.training
    network.eval()
    student.losses.eval()
    try:
        with torch.no_grad():
            for batch in scored(data, "validation", rank=ranks.rank, world=ranks.world, batch_size=size):
                ranks.pause_point()
                images = BatchImages(batch.images.to(ranks.device))
                target = _target(data, batch, ranks.device)
                # Of each batch its own, since which batches a rank has depends on the world.
                draws = Draws(ranks.device, derive(run.seed, "validation loss", student.epoch, batch.start))
                with draws.swapped_in():
                    terms = _terms(student, resources, images, target)
                sums[batch.start // size] = torch.stack([torch.stack([t.total, t.count]).double() for t in terms])
    finally:
        network.train(training)
        student.losses.train()
    totals = ranks.to_host(ranks.all_reduce(sums).flatten()).get()
    return _weighted(totals, list(weights.values()))


def _weighted(numbers: list[float], weights: list[float]) -> float:
    """Of (total, count) of each term in each batch, one batch behind the other; a term without a unit is 0."""
    step, loss = 2 * len(weights), 0.0
    for place, weight in enumerate(weights):
        total, count = (sum(numbers[2 * place + part :: step]) for part in (0, 1))
        loss += weight * total / count if weight and count else 0.0
    return loss


def _terms(student: Student, resources: SharedResources, images: BatchImages, target: Tensor) -> list[Term]:
    run: RunConfig = student.run
    network = student.eval_network
    every: list[Loss] = list(student.losses.values())  # type: ignore[arg-type]  # a ModuleDict knows modules alone
    losses = [loss.plain if isinstance(loss, DeepSupervision) else loss for loss in every]
    taps = frozenset[str]().union(*(loss.student_taps() for loss in losses))
    theirs = resources.teacher_forward(run, images, student.teacher_taps) if student.needs_teacher else None
    with autocast(target.device, run.precision):
        output = network(images.normalised(network.normalisation))
    output = whole(output, taps)
    terms = [loss(output, theirs, target) for loss in losses]
    for loss in losses:
        loss.offer()  # what it would remember of these images is dropped
    return terms


def _target(data: DataSet, batch: ScoredBatch, device: torch.device) -> Tensor:
    """What losses compare with, as in training."""
    masks = np.stack([data.fitted("validation", index)[1] for index in batch.indices])
    return Batch(batch.images, torch.from_numpy(masks), batch.indices, data.regions).target(device)
