"""Cross-image distillation with a memory, CIRKD (Yang et al. 2022, CVPR, arXiv 2204.06986, equations 6 to 9): a voxel's
cosines with the teacher's voxels, or with its means of a class, of earlier steps."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from losses.config import CirkdMemory
from losses.labels import amount, in_float32, one_hot, valid_voxels
from losses.pooling import averaged_to_grid, nearest_to
from losses.tap_pairs import FAINT, TapPairs, directions, pointwise
from losses.term import Loss, Term, taught
from models.output import Output, Taps

TABLE = 1 << 18
"""Cosines that are compared at a time on a CPU: what its caches hold."""


class _MemoryDivergence(torch.autograd.Function):
    """`memory_divergence`, some rows at a time: of the table of rows and columns nothing is kept for the gradient,
    which is of a row's own numbers alone and is made while the row's softmaxes are there."""

    @staticmethod
    def forward(ctx: FunctionCtx, student: Tensor, teacher: Tensor, bank: Tensor, columns: Tensor) -> Tensor:
        each = student.new_empty(len(student))
        slopes = torch.empty_like(student)
        chunk = max(1, TABLE // len(bank)) if student.device.type == "cpu" else len(student)
        for start in range(0, len(student), chunk):
            part = slice(start, start + chunk)
            near, wanted = (F.linear(x[part], bank, columns) for x in (student, teacher))
            target = wanted.softmax(1)
            each[part] = (target * (wanted.log_softmax(1) - near.log_softmax(1))).sum(1)
            slopes[part] = (near.softmax(1) - target) @ bank
        ctx.save_for_backward(slopes)
        return each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return upstream.unsqueeze(1) * slopes, None, None, None


def memory_divergence(student: Tensor, teacher: Tensor, bank: Tensor, columns: Tensor) -> Tensor:
    """KL of the softmaxes over the bank's vectors of each row's products with them, teacher first: (R, D) twice, (Q, D)
    and what is added to each column, (Q,), to (R,). The gradient is the student's alone: a row's (p_s - p_t) bank."""
    each: Tensor = _MemoryDivergence.apply(student, teacher.detach(), bank, columns)  # type: ignore[no-untyped-call]
    return each


class Queue(nn.Module):
    """The newest `size` vectors of unit length of each class, in buffers that a checkpoint has."""

    vectors: Tensor
    pushed: Tensor

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        # A last row takes what is not kept: nothing has to be counted on the host.
        self.register_buffer("vectors", torch.zeros(classes, size + 1, channels))
        self.register_buffer("pushed", torch.zeros(classes, dtype=torch.int64))

    def push(self, vectors: Tensor, kept: Tensor) -> None:
        """Take the vectors (K, V, D) that are marked in (K, V) bool, in their order; the oldest make room."""
        order = kept.cumsum(1)
        newest = kept & (order > order[:, -1:] - self.size)
        places = torch.where(newest, (self.pushed.unsqueeze(1) + order - 1) % self.size, self.size)
        self.vectors.scatter_(1, places.unsqueeze(2).expand_as(vectors), vectors)
        self.pushed += order[:, -1]

    def sample(self, number: int) -> tuple[Tensor, Tensor]:
        """As many vectors of each class as there are, `number` at most, at random and none twice: (K * n, D) and which
        of them count, (K * n,) bool."""
        classes, rows, _ = self.vectors.shape
        device = self.vectors.device
        full = torch.arange(self.size, device=device) < self.pushed.unsqueeze(1)
        keys = torch.rand(classes, rows - 1, device=device).masked_fill(~full, -1.0)
        drawn, places = keys.topk(min(number, self.size), dim=1)
        picked = self.vectors.gather(1, places.unsqueeze(2).expand(-1, -1, self.vectors.shape[2]))
        return picked.flatten(0, 1), (drawn >= 0).flatten()


class MemoryContrast(Loss):
    """Mean over valid places of KL(teacher || student) of the cosines with a sample of the memory over a temperature.

    The student's map goes through a learned head (1x1 convolution, batch normalisation, ReLU, 1x1 convolution) to as
    many channels as the teacher's; the head trains with the student and is not exported. Maps are averaged down to at
    most `grid` places an axis first, labels by nearest neighbours. What a step saw is added to the memory after it,
    from all ranks in their order, so that the memory is equal on all; the authors add it before. Of each image and
    class a rank adds `PER_CLASS` vectors, of its first `IMAGES` images. The authors' memory begins as random vectors
    and their voxels of a class may be any voxel; here it begins empty, a class without vectors is not compared with,
    and voxels are those of the class. The value is 0 while the memory is empty. A derivative is at most about 2 /
    (temperature FAINT) times one by values of about 1. Memory: classes x queue x channels numbers, in the checkpoint
    too, and places x contrast of each step. 0 where head and student agree with the teacher.
    """

    needs_teacher = True
    PER_CLASS: ClassVar[int] = 1
    IMAGES: ClassVar[int] = 16
    name: ClassVar[str] = ""

    def __init__(
        self, config: CirkdMemory, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where a tap is missing, there is more than one pair, or sizes differ and `resize` names
        nothing."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature, self.grid, self.classes = config.temperature, config.grid, classes
        self.pairs = TapPairs(
            self.name,
            config.tap if isinstance(config.tap, str) else (config.tap,),
            config.resize,
            student=student,
            teacher=teacher,
            classes=classes,
        )
        ((width, channels),) = self.pairs.channels
        norm: type[nn.BatchNorm2d] | type[nn.BatchNorm3d] = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        self.head = nn.Sequential(
            pointwise(dims, width, channels), norm(channels), nn.ReLU(), pointwise(dims, channels, channels)
        )
        self.queue = Queue(classes, config.queue or self.QUEUE, channels)
        self.number = (config.contrast or self.CONTRAST) // classes + 1
        self._rows = self.IMAGES * self.PER_CLASS
        self.offer_size = classes * self._rows * (channels + 1)
        self._offer: Tensor | None = None

    QUEUE: ClassVar[int] = 2000
    CONTRAST: ClassVar[int] = 1024

    def student_taps(self) -> frozenset[str]:
        """The student's tap of the pair."""
        return self.pairs.student_taps()

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's tap of the pair."""
        return self.pairs.teacher_taps()

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over valid places; taps (N, C, *S), target (N, *S)."""
        ((ours, theirs),) = self.pairs.maps(student, taught(teacher))
        ours, theirs = averaged_to_grid(ours, self.grid), averaged_to_grid(theirs, self.grid)
        labels = nearest_to(target, ours.shape[2:])
        unit = directions(theirs.flatten(2), 1).transpose(1, 2)
        with in_float32(ours):
            mapped = directions(self.head(ours).flatten(2), 1, FAINT).transpose(1, 2)
            bank, there = self.queue.sample(self.number)
            bank = bank.to(mapped.dtype)
            # Where nothing is remembered all columns stay: a softmax over none has no value, and is weighed with 0.
            columns = torch.where(~there & there.any(), -1e4, 0.0).to(bank.dtype)
            rows = [(x / self.temperature).flatten(0, 1) for x in (mapped, unit)]
            each = memory_divergence(rows[0], rows[1], bank, columns).view(mapped.shape[:2])
        valid = valid_voxels(labels)
        each = each * valid.flatten(1) * there.any()
        self._offer = self._packed(theirs.flatten(2)[: self.IMAGES], labels.flatten(1)[: self.IMAGES])
        return Term(each.sum(), amount(valid))

    def offer(self) -> Tensor | None:
        """What the newest step adds to the memory, (offer_size,); None before one."""
        offer, self._offer = self._offer, None
        return offer

    def absorb(self, gathered: Tensor) -> None:
        """Add what all ranks offered, (ranks, offer_size)."""
        rows = (
            gathered.view(-1, self.classes, self._rows, self.queue.vectors.shape[2] + 1).transpose(0, 1).flatten(1, 2)
        )
        self.queue.push(rows[..., :-1].contiguous().to(self.queue.vectors.dtype), rows[..., -1] > 0)

    @torch.no_grad()
    def _packed(self, feature: Tensor, labels: Tensor) -> Tensor:
        """Vectors of unit length by class and whether each is one, (offer_size,) flat."""
        members = one_hot(labels, self.classes).to(feature.dtype)
        vectors, there = self.chosen(feature, members)
        rows = torch.cat([F.normalize(vectors, dim=3), there.unsqueeze(3).to(feature.dtype)], 3)
        rows = rows.masked_fill(~there.unsqueeze(3), 0.0).transpose(0, 1).flatten(1, 2)
        return F.pad(rows, (0, 0, 0, self._rows - rows.shape[1])).flatten()

    def chosen(self, feature: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D, M) and members of classes (N, K, M) to vectors (N, K, PER_CLASS, D) and which are there."""
        raise NotImplementedError(f"{type(self).__name__} chooses nothing")


class RegionMemory(MemoryContrast):
    """The memory of a class's mean in each image."""

    name = "cirkd-region"

    def chosen(self, feature: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over a class's voxels."""
        number = members.sum(2)
        with in_float32(feature):
            means = members @ feature.transpose(1, 2) / number.clamp(min=1.0).unsqueeze(2)
        return means.unsqueeze(2), (number > 0).unsqueeze(2)


class PixelMemory(MemoryContrast):
    """The memory of up to 16 voxels of a class in each image, drawn at random."""

    name = "cirkd-memory"
    PER_CLASS = 16
    QUEUE = 20_000
    CONTRAST = 4096

    def chosen(self, feature: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """As many of a class's voxels as there are, 16 at most, none twice."""
        keys = torch.rand(members.shape, device=members.device).masked_fill(members == 0, -1.0)
        keys = F.pad(keys, (0, max(0, self.PER_CLASS - keys.shape[2])), value=-1.0)
        drawn, places = keys.topk(self.PER_CLASS, dim=2)
        flat = places.clamp(max=feature.shape[2] - 1).flatten(1).unsqueeze(1).expand(-1, feature.shape[1], -1)
        picked = feature.gather(2, flat).view(len(feature), -1, *places.shape[1:])
        return picked.movedim(1, 3), drawn >= 0
