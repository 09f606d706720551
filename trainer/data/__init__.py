"""Images with masks: opened by name, streamed to students, scored at native size. Importing this needs no torch.

A data set is a line in DATASETS, "module:function"; the function takes the settings, the folder of the decoded cache
and a progress callback, and returns a `DataSet`.
"""

from collections.abc import Callable, Hashable
from importlib import import_module
from pathlib import Path

from trainer.config import DataConfig, RunConfig, VolumeData
from trainer.data.dataset import DataSet, Opening, Part, Pixels, Placement, Sample
from trainer.data.openings import read_openings, record_opening
from trainer.errors import DataError

__all__ = [
    "DATASETS",
    "DataError",
    "DataSet",
    "Opening",
    "Part",
    "Pixels",
    "Placement",
    "Sample",
    "open_data",
    "read_openings",
    "record_opening",
    "stream_key",
]

DATASETS = {
    "blobs": "trainer.data.sets.blobs:open_blobs",
    "pictures": "trainer.data.sets.pictures:open_pictures",
    "polyp": "trainer.data.sets.pictures:open_pictures",
    "volumes": "trainer.data.sets.volumes:open_volumes",
}


def open_data(config: DataConfig, *, cache: Path, progress: Callable[[int, int], None] | None = None) -> DataSet:
    """The data set that the settings name.

    `cache` holds decoded pictures and may be shared by processes and runs; `progress(done, total)` is called during
    long work, from this thread. Raises DataError, also for an unknown augmentation preset.
    """
    from trainer.data.augment import check_preset

    if not isinstance(config, VolumeData):  # whose settings name those that there are
        check_preset(config.augment)
    module, function = DATASETS[config.name].split(":")
    data: DataSet = getattr(import_module(module), function)(config, cache=cache, progress=progress)
    return data


def stream_key(run: RunConfig) -> tuple[Hashable, ...]:
    """Runs with equal keys see the same batches at the same stream epoch, and share one stream and one teacher pass."""
    return (run.data.model_dump_json(), run.batch_size, run.seed)
