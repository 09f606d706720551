"""Streams and scored batches: what a batch depends on, and what happens when something goes wrong."""

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.normalisation import IMAGENET, Normalisation
from trainer.config import BlobsData, RunConfig
from trainer.data import DataError, DataSet, Opening, Pixels, open_data, stream_key
from trainer.data.sets.blobs import Blobs
from trainer.data.streams.batches import Batch, BatchImages, normalise
from trainer.data.streams.scored import scored, scored_order
from trainer.data.streams.stream import Stream, Workers

OPENING = Opening("test", "2026-01-01T00:00:00+00:00", "tests")


def blobs(**changes: object) -> DataSet:
    config = BlobsData.model_validate({"name": "blobs", "size": 32, "train": 22, "validation": 7, "test": 5} | changes)
    return open_data(config, cache=Path("never written"))


def stream(data: DataSet | None = None, *, rank: int = 0, world: int = 1, seed: int = 1, threads: int = 2) -> Stream:
    return Stream(data or blobs(), batch_size=5, seed=seed, rank=rank, world=world, workers=Workers(threads))


def equal(one: Batch, other: Batch) -> bool:
    return (
        one.indices == other.indices and torch.equal(one.images, other.images) and torch.equal(one.masks, other.masks)
    )


def test_batches_have_the_promised_shapes() -> None:
    """8 bits, the network's size, whole batches; the rest that fills none is left out."""
    made = list(stream().epoch(0))
    assert len(made) == stream().steps == 4
    for batch in made:
        assert batch.images.shape == (5, 32, 32, 3)
        assert batch.masks.shape == (5, 32, 32)
        assert batch.images.dtype == batch.masks.dtype == torch.uint8
    seen = [index for batch in made for index in batch.indices]
    assert len(set(seen)) == 20


@pytest.mark.parametrize("world", [2, 3, 5])
def test_batches_do_not_depend_on_the_world(world: int) -> None:
    """The ranks' shares, one after another, are the batch of one rank, pixel for pixel."""
    data = blobs()
    alone = list(stream(data).epoch(3))
    shares = [list(stream(data, rank=rank, world=world).epoch(3)) for rank in range(world)]
    for step, batch in enumerate(alone):
        parts = [mine[step] for mine in shares]
        assert {len(part.indices) for part in parts} <= {5 // world, -(-5 // world)}
        joined = Batch(
            torch.cat([part.images for part in parts]),
            torch.cat([part.masks for part in parts]),
            tuple(index for part in parts for index in part.indices),
        )
        assert equal(joined, batch)


def test_batches_do_not_depend_on_threads_or_history() -> None:
    """Epoch 2 is the same after epochs 0 and 1 in one stream, first in another, with one thread or four."""
    long = stream(threads=4)
    for number in (0, 1):
        list(long.epoch(number))
    for one, other in zip(long.epoch(2), stream(threads=1).epoch(2), strict=True):
        assert equal(one, other)


def test_epochs_and_seeds_differ() -> None:
    """In order, and in how the same image is augmented."""
    data = blobs()
    kinds = {"epoch": stream(data).epoch(1), "seed": stream(data, seed=2).epoch(0)}
    first = list(stream(data).epoch(0))
    for other in kinds.values():
        batches = list(other)
        assert [b.indices for b in batches] != [b.indices for b in first]
        pictures = {index: image for b in batches for index, image in zip(b.indices, b.images, strict=True)}
        common = [
            (image, pictures[index])
            for b in first
            for index, image in zip(b.indices, b.images, strict=True)
            if index in pictures
        ]
        assert sum(torch.equal(a, b) for a, b in common) < len(common) / 4


def test_every_image_is_used_over_the_epochs() -> None:
    """The images that are left out differ from epoch to epoch."""
    made = stream()
    seen = {index for number in range(6) for batch in made.epoch(number) for index in batch.indices}
    assert seen == set(range(22))


def test_without_augmentation_the_pictures_are_those_of_the_data() -> None:
    """Preset `none`."""
    data = blobs(augment="none")
    for batch in stream(data).epoch(0):
        for image, mask, index in zip(batch.images, batch.masks, batch.indices, strict=True):
            wished = data.fitted("train", index)
            assert np.array_equal(image.numpy(), wished[0])
            assert np.array_equal(mask.numpy(), wished[1])


def test_wrong_sizes_are_refused() -> None:
    """Fewer images than a batch; more ranks than images a batch; a rank outside the world."""
    with pytest.raises(DataError, match="batch_size = 5: the training part has only 4 images"):
        stream(blobs(train=4))
    with pytest.raises(ValueError, match="smaller than the 6 ranks"):
        stream(world=6)
    with pytest.raises(ValueError, match="rank = 2: expected 0 to 1"):
        stream(rank=2, world=2)


class Counted(Blobs):
    """Counts the pictures that are asked for, and by which threads."""

    def __init__(self, train: int) -> None:
        super().__init__(BlobsData(name="blobs", size=32, train=train))
        self.asked: list[int] = []
        self.by: set[int] = set()

    def fitted(self, part: str, index: int, opening: Opening | None = None) -> tuple[Pixels, Pixels]:
        self.asked.append(index)
        self.by.add(threading.get_ident())
        return super().fitted("train", index, opening)


def settled(data: Counted) -> int:
    """How many pictures were asked for, once no more are."""
    before = -1
    while before != len(data.asked):
        before = len(data.asked)
        time.sleep(0.1)
    return before


def test_the_same_threads_serve_all_epochs_of_all_streams_and_end_with_them() -> None:
    """They are started once, however often an epoch is over or left."""
    data, workers = Counted(20), Workers(2)
    streams = [Stream(data, batch_size=5, seed=seed, rank=0, world=1, workers=workers) for seed in (1, 2)]
    for number in range(3):
        for made in streams:
            list(made.epoch(number))
    assert 1 <= len(data.by) <= 2
    there = [thread for thread in threading.enumerate() if thread.ident in data.by]
    del streams, made, workers
    gc.collect()
    for thread in there:
        thread.join(20)
        assert not thread.is_alive()


def test_no_batch_is_begun_for_an_epoch_that_was_left() -> None:
    """Closed early, dropped, or left by an exception of the listener: a few batches of 40 were ahead."""
    data = Counted(200)
    made = Stream(data, batch_size=5, seed=1, rank=0, world=1, workers=Workers(2))
    early = made.epoch(1)
    next(early)
    early.close()
    assert settled(data) <= 6 * 5
    dropped = made.epoch(2)
    next(dropped)
    del dropped
    gc.collect()
    assert settled(data) <= 12 * 5
    with pytest.raises(KeyError):
        leave(made)
    gc.collect()
    assert settled(data) <= 18 * 5


def leave(made: Stream) -> None:
    for batch in made.epoch(3):
        raise KeyError(batch.indices)


def test_an_epoch_that_was_prepared_is_the_same_and_not_made_twice() -> None:
    """Whether it is then asked for, or another one is."""
    data, wished = Counted(60), {number: list(stream(blobs(train=60)).epoch(number)) for number in (0, 1, 4)}
    made = Stream(data, batch_size=5, seed=1, rank=0, world=1, workers=Workers(2))
    made.prepare(0)
    end = time.monotonic() + 20
    while not data.asked and time.monotonic() < end:
        time.sleep(0.01)
    assert 0 < settled(data) <= 4 * 5
    for one, other in zip(made.epoch(0), wished[0], strict=True):
        assert equal(one, other)
    assert settled(data) == 60
    made.prepare(1)
    for one, other in zip(made.epoch(4), wished[4], strict=True):
        assert equal(one, other)
    made.prepare(1)
    made.let_go()
    for one, other in zip(made.epoch(1), wished[1], strict=True):
        assert equal(one, other)


class Broken(Blobs):
    """One training picture cannot be read."""

    def __init__(self, config: BlobsData, error: Exception) -> None:
        super().__init__(config)
        self.error = error

    def fitted(self, part: str, index: int, opening: Opening | None = None) -> tuple[Pixels, Pixels]:
        if index == 13:
            raise self.error
        return super().fitted("train", index, opening)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("S/images/13.png: damaged"), r"^S/images/13\.png: damaged$"),
        (
            OSError("stale file handle"),
            r"blobs/train-00013: cannot be read or augmented \(OSError: stale file handle\)",
        ),
    ],
)
def test_a_bad_picture_reaches_the_listener_with_its_name(error: Exception, message: str) -> None:
    """As DataError, whatever was raised, and the threads go on with other pictures."""
    config = BlobsData(name="blobs", size=32, train=20)
    made = Stream(Broken(config, error), batch_size=5, seed=1, rank=0, world=1, workers=Workers(2))
    with pytest.raises(DataError, match=message):
        list(made.epoch(0))
    assert len(next(made.pictures(0, [(1, 2)])).images) == 2


def test_waiting_is_counted() -> None:
    """Seconds grow while batches are made, and never shrink."""
    made = stream()
    list(made.epoch(0))
    first = made.seconds_waited
    assert first > 0
    list(made.epoch(1))
    assert made.seconds_waited > first


def test_the_key_holds_what_changes_batches_and_nothing_else() -> None:
    """Data, batch size and seed; not the student, the rate or the number of epochs."""

    def run(**changes: object) -> RunConfig:
        base = {"epochs": 2, "batch_size": 4, "seed": 1, "data": {"name": "blobs"}, "losses": {"ce": {"weight": 1.0}}}
        return RunConfig.model_validate(base | changes)

    assert hash(stream_key(run())) == hash(stream_key(run(epochs=9, optim={"lr": 0.5})))
    assert stream_key(run()) == stream_key(run(student={"name": "unet", "width": 4}))
    others = [
        run(seed=2),
        run(batch_size=5),
        run(data={"name": "blobs", "augment": "none"}),
        run(data={"name": "blobs", "size": 32}),
    ]
    assert len({stream_key(run()), *map(stream_key, others)}) == 5


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_validation_is_shared_out_without_padding(world: int) -> None:
    """Each picture is scored once, with its own native mask and placement, whatever the world; a rank may have none.

    Pictures of one native size follow one another, and which pictures share a batch does not depend on the world.
    """
    data = blobs()
    whole = {batch.indices for batch in scored(data, "validation", rank=0, world=1, batch_size=2)}
    found: dict[int, int] = {}
    for rank in range(world):
        for batch in scored(data, "validation", rank=rank, world=world, batch_size=2):
            assert batch.indices in whole
            assert len(batch.images) == len(batch.masks) == len(batch.placements) == len(batch.indices) <= 2
            for at, index in enumerate(batch.indices):
                assert index not in found
                found[index] = batch.start + at
                assert np.array_equal(batch.images[at].numpy(), data.fitted("validation", index)[0])
                assert np.array_equal(batch.masks[at], data.native_mask("validation", index))
                assert batch.placements[at] == data.placement("validation", index)
    assert set(found) == set(range(7))
    assert sorted(found, key=found.__getitem__) == scored_order(data, "validation")
    assert scored_order(data, "validation") == sorted(range(7), key=lambda index: data.placement("validation", index))


def test_test_rows_are_scored_with_an_opening_only() -> None:
    """The refusal comes with the call, before the first batch is asked for."""
    with pytest.raises(DataError, match="test rows are closed"):
        scored(blobs(), "test", rank=0, world=1, batch_size=2)
    batches = list(scored(blobs(), "test", rank=0, world=1, batch_size=2, opening=OPENING))
    assert [len(batch.indices) for batch in batches] == [2, 2, 1]
    assert sorted(index for batch in batches for index in batch.indices) == [0, 1, 2, 3, 4]


def test_an_empty_part_cannot_be_scored() -> None:
    """A mean over nothing is no score."""

    class Empty(Blobs):
        """No validation pictures."""

        def samples(self, part: str, opening: Opening | None = None) -> tuple[()]:
            return ()

    with pytest.raises(DataError, match="the data has no validation images"):
        scored(Empty(BlobsData(name="blobs")), "validation", rank=0, world=1, batch_size=2)


OTHER = Normalisation((0.0, 0.5, 0.4), (1.0, 0.5, 0.2))


@pytest.mark.parametrize("how", [IMAGENET, OTHER])
def test_normalised_images_are_what_pretrained_encoders_expect(how: Normalisation) -> None:
    """(x / 255 - mean) / std a channel, channels last, and the 8-bit pictures stay as they are."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    before = images.clone()
    out = normalise(images) if how is IMAGENET else normalise(images, how)
    wished = (images.numpy().astype(np.float64) / 255 - np.array(how.mean)) / np.array(how.std)
    assert out.shape == (2, 3, 8, 8)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(out.numpy(), wished.transpose(0, 3, 1, 2), atol=1e-5)
    assert torch.equal(images, before)


def test_a_batch_is_normalised_once_for_all_networks_of_a_kind() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    images = BatchImages(pixels)
    assert images.normalised(IMAGENET) is images.normalised(IMAGENET)
    assert torch.equal(images.normalised(IMAGENET), normalise(pixels))
    assert torch.equal(images.normalised(OTHER), normalise(pixels, OTHER))
    assert len(images) == 2


def test_a_stream_can_be_heard_by_two_at_once() -> None:
    """Two epochs side by side do not disturb one another."""
    made, wished = stream(), {number: list(stream().epoch(number)) for number in (0, 1)}
    both = zip(made.epoch(0), made.epoch(1), strict=True)
    for step, pair in enumerate(both):
        assert equal(pair[0], wished[0][step])
        assert equal(pair[1], wished[1][step])


def test_an_unknown_preset_is_refused_before_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for data sets that were not opened by name."""
    data: Callable[[], DataSet] = lambda: Blobs(BlobsData(name="blobs", augment="stronk"))  # noqa: E731  one line says it
    with pytest.raises(DataError, match=r"data\.augment = 'stronk': unknown preset; .*nearest: strong"):
        Stream(data(), batch_size=4, seed=1, rank=0, world=1)
