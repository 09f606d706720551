"""A teacher's logits on the fixed views of the training images, computed once a machine and used as stored.

With `data.views = V` stream epoch e shows view e mod V of each image, so a teacher says V things about an image and no
more. They lie on disk in float16, in chunks of `CHUNK` images in the order of the data set: a chunk is one pass of the
teacher, so that its values depend on teacher, data and view alone, not on the batches, ranks or runs that need
it first.
What was just computed goes through float16 too; so a run has the same numbers whether it finds a chunk or makes it.

Rounding to float16 changes a logit by at most 1/2048 of its size (0.005 at 10), far below what a teacher knows.
Workers of one machine make chunks side by side, each where it finds none: whoever names a chunk first wins, and nobody
waits for anybody.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor

from models.config import EnsembleTeacher, MapsTeacher, NetworkTeacher, TeacherConfig
from trainer.atomic_files import private_folder, sync_folder
from trainer.config import DataConfig, RunConfig, VolumeData
from trainer.data.augment import picture_libraries
from trainer.data.classes import input_sides
from trainer.data.dataset import DataSet, examples_an_epoch
from trainer.errors import DataError, refusal_text

FORMAT = 1
"""Goes up with every change of what the files hold."""
CHUNK = 16
"""Images in a file, which are one pass of the teacher."""
LARGEST = 65504.0
"""The largest float16; logits beyond it are brought to it."""

Halves = NDArray[np.float16]


def stored_bytes(run: RunConfig, data: DataSet) -> int:
    """What all views of a run's training images take on disk; 0 without views or teacher."""
    if run.data.views is None or not run.methods():
        return 0
    return run.data.views * examples_an_epoch(data) * data.classes * math.prod(input_sides(run.data)) * 2


UNSTORED = (
    'teacher.name = "maps": needs data.views: maps are bent (of volumes cut) along with each fixed view of the images '
    "and stored; set data.views = 1 or more"
)


def refuse_taps(run: RunConfig, taps: frozenset[str]) -> None:
    """Raise ValueError where a run reads taps of a teacher that has none, or with views, of which logits alone are
    stored; and for stored maps without views."""
    if run.methods() and isinstance(run.teacher, MapsTeacher) and run.data.views is None:
        raise ValueError(UNSTORED)
    if taps and run.teacher is not None and not isinstance(run.teacher, NetworkTeacher):
        raise ValueError(
            f"teacher.name = {run.teacher.name!r}: has logits alone, and method {run.method!r} reads a teacher's taps "
            f"{', '.join(sorted(taps))}; choose another method or a network as teacher"
        )
    if run.data.views is not None and taps:
        raise ValueError(
            f"data.views = {run.data.views}: the views keep a teacher's logits alone, and method {run.method!r} reads "
            f"its taps {', '.join(sorted(taps))}; leave data.views out or choose another method"
        )


class StoredLogits:
    """The stored logits of one teacher on one run's views. `compute` runs the teacher on images of one view.

    Raises DataError where the folder has no room for what is missing.
    """

    def __init__(
        self, folder: Path, run: RunConfig, data: DataSet, teacher: str, device: torch.device, compute: "TeacherLogits"
    ) -> None:
        provenance = _provenance(run, data, teacher, device)
        self.folder = (
            folder / f"views-{hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()[:32]}"
        )
        self.count = examples_an_epoch(data)
        self.chunks = -(-self.count // CHUNK)
        self._shape = (data.classes, *input_sides(data.config))
        self._device, self._compute = device, compute
        self._open: dict[tuple[int, int], Halves] = {}
        try:
            private_folder(self.folder)
            self._room(stored_bytes(run, data))
            if not (self.folder / "about.json").exists():
                self._write(json.dumps(provenance, indent=1, sort_keys=True).encode(), self.folder / "about.json")
        except OSError as error:
            raise self._refused(error) from error

    def missing(self, view: int, first: int = 0) -> Iterator[tuple[int, ...]]:
        """Images of each chunk of a view that nobody has made yet, beginning with chunk `first` and going round."""
        for chunk in ((first + step) % self.chunks for step in range(self.chunks)):
            if not self._exists(view, chunk):
                yield tuple(range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.count)))

    def make(self, view: int, indices: tuple[int, ...], images: Tensor) -> None:
        """Store what the teacher says of a chunk that `missing` named; nothing where somebody was faster."""
        chunk = indices[0] // CHUNK
        if self._exists(view, chunk):
            return
        computed = self._compute(view, indices, images).clamp(-LARGEST, LARGEST).to(torch.float16).cpu().numpy()
        try:
            self._write(computed.tobytes(), self._path(view, chunk))
        except OSError as error:
            raise self._refused(error) from error

    def logits(self, view: int, indices: tuple[int, ...], images: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """Logits (n, classes, *S) float32 of these images on the device; `images` gives the pixels of a chunk that is
        not there."""
        for other in [key for key in self._open if key[0] != view]:
            del self._open[other]
        out = torch.empty((len(indices), *self._shape), dtype=torch.float16, pin_memory=self._device.type == "cuda")
        rows: Halves = out.numpy()
        for at, index in enumerate(indices):
            chunk = index // CHUNK
            if (view, chunk) not in self._open:
                self._open[view, chunk] = self._chunk(view, chunk, images)
            rows[at] = self._open[view, chunk][index % CHUNK]
        return out.to(self._device, non_blocking=True).float()

    def _chunk(self, view: int, chunk: int, images: Callable[[tuple[int, ...]], Tensor]) -> Halves:
        indices = tuple(range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.count)))
        if not self._exists(view, chunk):
            self.make(view, indices, images(indices))
        return np.memmap(self._path(view, chunk), np.float16, mode="r", shape=(len(indices), *self._shape))

    def _path(self, view: int, chunk: int) -> Path:
        return self.folder / f"{view:03d}-{chunk:05d}.f16"

    def _exists(self, view: int, chunk: int) -> bool:
        """Whether a chunk lies there. Names are given to whole files alone; one of another size was hurt since."""
        if (view, chunk) in self._open:
            return True
        path, images = self._path(view, chunk), min(self.count - chunk * CHUNK, CHUNK)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return False
        if size == images * math.prod(self._shape) * np.dtype(np.float16).itemsize:
            return True
        logger.warning("{} is damaged; the teacher is run on its images again", path)
        path.unlink(missing_ok=True)
        return False

    def _write(self, content: bytes, path: Path) -> None:
        """Give the name to these bytes, once they are on the disk, unless another process was faster."""
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(beside, path)
            except FileExistsError:
                return
            sync_folder(path.parent)
        finally:
            beside.unlink(missing_ok=True)

    def _room(self, whole: int) -> None:
        """Say what the views take, and refuse before the first of them where the disk has no room."""
        there = sum(path.stat().st_size for path in self.folder.glob("*.f16"))
        free = shutil.disk_usage(self.folder).free
        if whole - there > free:
            raise DataError(
                f"data.views: the teacher's logits take {whole - there:,} more bytes in {self.folder}, which has "
                f"{free:,} free; make room, choose another cache folder, or take fewer views"
            )
        if there < whole:
            logger.info(
                "teacher's logits: {:,} of {:,} bytes are still to be written to {}", whole - there, whole, self.folder
            )

    def _refused(self, error: OSError) -> DataError:
        return DataError(
            f"{self.folder}: the teacher's logits cannot be kept there ({refusal_text(error)}); choose another "
            f"cache folder, or leave data.views out"
        )


TeacherLogits = Callable[[int, tuple[int, ...], Tensor], Tensor]
"""A view, training indices and their images (n, S, S, C) uint8 on the host to the teacher's logits
(n, classes, S, S) float32."""


def _provenance(run: RunConfig, data: DataSet, teacher: str, device: torch.device) -> dict[str, object]:
    """All that the stored values depend on; `teacher` is the sha256 of its file."""
    network = {} if run.teacher is None else run.teacher.placeless()
    return {
        "format": FORMAT,
        "chunk": CHUNK,
        "teacher": teacher,
        "network": network,
        "precision": run.precision,
        "data": data.content_hash,
        "size": run.data.size,
        "fit": run.data.fit,
        "augment": run.data.augment,
        "views": run.data.views,
        "seed": run.seed,
        **_patches(run.data),
        "device": device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "versions": [torch.__version__, *picture_libraries().values(), *_runtime(run.teacher)],
    }


def _patches(config: DataConfig) -> dict[str, object]:
    """What says where patches of volumes lie; nothing of pictures. How a case is prepared is in the data's hash."""
    if not isinstance(config, VolumeData):
        return {}
    return {"patches": [config.patch, config.patches, config.foreground]}


def _runtime(config: TeacherConfig | None) -> list[str]:
    """The version of onnxruntime where a teacher, or a member of it, runs there."""
    members = config.members if isinstance(config, EnsembleTeacher) else (config,)
    return [version("onnxruntime")] if any(member is not None and member.name == "onnx" for member in members) else []
