"""A folder of pictures to masks and overlays at native size; what cannot be read is named, the rest is done."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from trainer.cli.progress import Counting
from trainer.data.dataset import Pixels
from trainer.data.files import SUFFIXES, read_image
from trainer.distributed.launch import writable
from trainer.errors import DataError, UserError, on_stderr, one_line
from trainer.evaluation.case_figures import overlay

BATCH = 8
"""Pictures that go through a network together."""
NOT_ALL = 2
"""Exit code where a picture could not be read."""

Masks = Callable[[Sequence[Pixels]], list[Pixels]]
"""RGB pictures (H, W, 3) of any sizes to labels (H, W)."""


def segment(images: Path, output: Path, masks: Masks, *, classes: int, by: str) -> int:
    """Write `output`/masks and `output`/overlays for the pictures of a folder; 0, or NOT_ALL.

    Masks of two classes are black and white, of more the labels themselves. Raises UserError where the folder holds no
    picture or the output cannot be written.
    """
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; give one that holds pictures")
    files = sorted(file for file in images.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{images}: holds no picture; known kinds: {', '.join(sorted(SUFFIXES))}")
    writable(output / "masks" / files[0].name)
    names = _names(files)
    counting = Counting("segmenting")
    done = seen = 0
    for start in range(0, len(files), BATCH):
        batch = list(_readable(files[start : start + BATCH]))
        found = masks([image for _, image in batch]) if batch else []
        for (file, image), mask in zip(batch, found, strict=True):
            # Two classes as other programs expect a mask: black and white.
            _save(output / "masks" / names[file], mask * 255 if classes == 2 else mask)
            _save(output / "overlays" / names[file], overlay(image, mask))
        done += len(batch)
        seen = min(start + BATCH, len(files))
        counting(seen, len(files))
    failed = len(files) - done
    print(
        f"{output}  {done} masks and overlays at native size, by {by}"
        + (f"; {failed} of {len(files)} pictures could not be read" if failed else "")
    )
    return NOT_ALL if failed else 0


def _readable(files: Sequence[Path]) -> Iterator[tuple[Path, Pixels]]:
    for file in files:
        try:
            yield file, read_image(file)
        except DataError as error:
            # The line of progress on a terminal makes room.
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            on_stderr(f"{clear}error: {one_line(error)}")


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """A PNG's name for each picture; the old suffix stays in where two would get the same."""
    stems = [file.stem for file in files]
    return {file: f"{file.stem if stems.count(file.stem) == 1 else file.name}.png" for file in files}


def _save(path: Path, pixels: Pixels) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, format="PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
