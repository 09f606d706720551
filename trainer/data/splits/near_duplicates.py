"""Which pictures of a split show the same, and what follows: nothing within a part, a refusal across parts.

Looking at a test picture for this opens no test rows: nothing is scored, shown or learned from.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.cache import kept_file
from trainer.data.file_check import in_threads
from trainer.data.perceptual_hash import BYTES, ImageHashes, alike, image_hashes
from trainer.data.reading import PLAIN, Reading, as_rgb
from trainer.data.splits.split import Row
from trainer.errors import DataError

VOLUME_SHARE = 0.5
"""Share of a volume's slices that another volume's are near-identical to, from which the two are."""
FORMAT = 1
"""Goes up with every change of what a look holds, so that none is taken from a cache of before."""


@dataclass(frozen=True)
class Twins:
    """Two rows whose pictures show the same."""

    first: Row
    second: Row
    similarity: float
    """Similarity of their sketches, 1 at most."""
    identical: bool
    """Whether they hold the very same pixels."""

    @property
    def crosses(self) -> bool:
        """Whether the two are in different parts."""
        return self.first.part != self.second.part

    def __str__(self) -> str:
        how = "" if self.identical else f", similarity {self.similarity:.3f}"
        return f"{self.first.image} ({self.first.part}) and {self.second.image} ({self.second.part}){how}"


def twins(rows: Sequence[Row], looks: Sequence[ImageHashes | None]) -> list[Twins]:
    """Identical pictures, each with the first of its kind; then near-identical ones of different groups, most alike
    first. Of one group's pictures being alike nothing follows. None stands for a picture that could not be read.

    A slice that shows nothing is no twin. Slices of two bodies at one height are alike, so that two volumes are called
    near-identical where at least VOLUME_SHARE of one's slices are, and then one pair of theirs stands for all.
    """
    first: dict[str, int] = {}
    same = []
    for at, entry in enumerate(looks):
        if entry is None or (rows[at].case and not any(entry.sketch)):
            continue
        if rows[first.setdefault(entry.pixels, at)].image != rows[at].image:  # each cell of a picture has a row
            same.append(Twins(rows[first[entry.pixels]], rows[at], 1.0, identical=True))
    kept = sorted(first.values())
    sketches = [entry.sketch for entry in (looks[at] for at in kept) if entry is not None]
    near = [
        Twins(rows[kept[pair.first]], rows[kept[pair.second]], pair.similarity, identical=False)
        for pair in alike(sketches)
        if rows[kept[pair.first]].group_key != rows[kept[pair.second]].group_key
    ]
    return same + _volumes_as_one(sorted(near, key=lambda pair: -pair.similarity), rows)


def _volumes_as_one(near: Sequence[Twins], rows: Sequence[Row]) -> list[Twins]:
    """Pairs of pictures as they are; of two volumes the first pair, where enough of their slices are in one."""
    slices = Counter(_volume(row) for row in rows if row.case)
    alike_of: dict[frozenset[str], dict[str, set[str]]] = {}
    for pair in near:
        if pair.first.case and pair.second.case:
            both = alike_of.setdefault(frozenset(_volumes(pair)), {})
            for row, volume in zip((pair.first, pair.second), _volumes(pair), strict=True):
                both.setdefault(volume, set()).add(row.image)
    named: set[frozenset[str]] = set()
    kept = []
    for pair in near:
        volumes = frozenset(_volumes(pair))
        if volumes in alike_of:
            share = max(len(images) / slices[volume] for volume, images in alike_of[volumes].items())
            if share < VOLUME_SHARE or volumes in named:
                continue
            named.add(volumes)
        kept.append(pair)
    return kept


def _volumes(pair: Twins) -> tuple[str, str]:
    return _volume(pair.first), _volume(pair.second)


def _volume(row: Row) -> str:
    return f"{row.source}/{row.case or row.image}"


def refuse_crossing(pairs: Sequence[Twins], where: str, *, accept: bool, remedy: str) -> int:
    """Raise DataError where twins are in different parts. `accept` lets those pass that are near-identical only; how
    many do is returned."""
    for identical in (True, False):
        crossing = [pair for pair in pairs if pair.crosses and pair.identical == identical]
        if crossing and (identical or not accept):
            what = "identical" if identical else "near-identical"
            raise DataError(
                f"{where}: {what} pictures in two parts, {crossing[0]}; {len(crossing)} such pairs: "
                + ("remove one of each" if identical else remedy)
            )
    return sum(pair.crosses for pair in pairs)


def kept_looks(
    cache: Path,
    images: Sequence[tuple[str, Path]],
    progress: Callable[[int, int], None] | None = None,
    *,
    reading: Reading = PLAIN,
) -> list[ImageHashes]:
    """The looks of images (sha256 of the file, and where it is), read once and kept in the folder. Raises DataError."""
    # Pictures of three channels and 8 bits are read in one way.
    kind = [] if (reading.channels, reading.bits) == (3, 8) else [reading.key]
    text = "\x1f".join([str(FORMAT), *(digest for digest, _ in images), *kind])
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return kept_file(
        cache / f"looks-{key}.json",
        lambda: in_threads(
            lambda path: image_hashes(as_rgb(reading.image(path))),
            [path for _, path in images],
            name="look",
            progress=progress,
        ),
        write=lambda hashes: json.dumps([[entry.pixels, packed([entry.sketch])] for entry in hashes]),
        read=lambda text: _parsed(text, len(images)),
    )


def packed(sketches: Sequence[bytes]) -> str:
    """Sketches as text, for words beside weights."""
    return base64.b64encode(b"".join(sketches)).decode()


def unpacked(text: str) -> list[bytes]:
    """What `packed` was given. Raises ValueError where it is nothing of that kind."""
    content = base64.b64decode(text, validate=True)
    if len(content) % BYTES:
        raise ValueError(f"{len(content)} bytes are no sketches of {BYTES}")
    return [content[at : at + BYTES] for at in range(0, len(content), BYTES)]


def _parsed(text: str, count: int) -> list[ImageHashes]:
    hashes = [ImageHashes(pixels, *unpacked(sketch)) for pixels, sketch in json.loads(text)]
    if len(hashes) != count:
        raise ValueError(f"{len(hashes)} looks in place of {count}")
    return hashes
