"""Patches of volumes: where crops lie, how they are changed, and that image and label are changed alike."""

import numpy as np
import pytest

from trainer.data.volumes.case import PreparedCase, class_offsets
from trainer.data.volumes.geometry import Grid, NativeGrid
from trainer.data.volumes.patches import CHANGES, IGNORE, Changes, PatchSettings, draw_patch, follow_patch
from trainer.data.volumes.recipes import Normaliser

MOVES = Changes(flip=0.5, turn=0.5)


def case(shape=(12, 10, 9), classes=4, share=0.2, seed=0, by_patch=False):
    """A case whose image is its label and, in a second channel, the place of each voxel."""
    rng = np.random.default_rng(seed)
    label = (rng.random(shape) < share) * rng.integers(1, classes, shape)
    label = label.astype(np.uint8)
    image = np.stack([label, np.arange(label.size).reshape(shape)]).astype(np.float32)
    return PreparedCase(
        name="drawn",
        image=image,
        label=label,
        native_label=label,
        foreground=class_offsets(label, classes),
        way=NativeGrid.unchanged(Grid.of(shape, np.eye(4))),
        nominal=(1.0, 1.0, 1.0),
        normaliser=Normaliser(by_patch, (0.0,) * 2, (1.0,) * 2),
        digest="",
    )


def drawn(source, seed, size=(6, 6, 5), changes=MOVES, foreground=0.5, **more):
    settings = PatchSettings(size, foreground, changes, **more)
    image, label = np.full((2, *size), np.nan, np.float32), np.zeros(size, np.uint8)
    draw_patch(source, settings, seed, image, label)
    return image, label


def test_image_and_label_are_moved_alike_and_every_move_is_met():
    source, seen = case(), set()
    for seed in range(200):
        image, label = drawn(source, seed)
        assert (image[0] == label).all()
        steps = [int(np.diff(image[1], axis=axis).ravel()[0]) for axis in range(3)]
        assert all((np.diff(image[1], axis=axis) == step).all() for axis, step in enumerate(steps))
        seen.add(tuple(steps))
    # Strides of a (12, 10, 9) array, with the first two axes in either order and every sign.
    assert seen == {(a * x, b * y, c) for x, y in ((90, 9), (9, 90)) for a in (1, -1) for b in (1, -1) for c in (1, -1)}


def test_a_patch_follows_from_its_seed_alone():
    source = case()
    first, again, other = drawn(source, 7), drawn(source, 7), drawn(source, 8)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.0, 0.0)])
def test_crops_lie_around_the_wanted_voxels(share, expected):
    source = case((31, 31, 31), share=0.02)
    size = (3, 3, 3)
    middles = [drawn(source, seed, size, CHANGES["none"], share, above_zero=False)[1][1, 1, 1] for seed in range(80)]
    inner = [middle > 0 for middle in middles]
    # A crop at the border has its voxel away from its middle.
    assert abs(np.mean(inner) - expected) < 0.25


def test_every_foreground_voxel_is_equally_likely_whatever_its_class():
    source = case((30, 30, 30), share=0.0)
    label = np.zeros((30, 30, 30), np.uint8)
    label[10:20, 10:20, 10:13], label[5, 5, 5] = 1, 2
    source = PreparedCase(**{**vars(source), "label": label, "foreground": class_offsets(label, 3)})
    kinds = [drawn(source, seed, (1, 1, 1), CHANGES["none"], 1.0)[1].item() for seed in range(600)]
    assert set(kinds) <= {1, 2}
    assert kinds.count(2) <= 10  # 1 voxel of 301


def test_background_is_drawn_where_there_is_something_to_see():
    source = case((8, 8, 8), share=0.0)
    source.image[0, :, :, 4:] = 1.0
    depths = [int(drawn(source, seed, (1, 1, 1), CHANGES["none"], 0.0)[0][1].item()) % 8 for seed in range(60)]
    assert min(depths) >= 4


def test_beyond_a_small_case_the_image_is_zero_and_the_label_ignored():
    source = case((4, 9, 5))
    for seed in range(20):
        image, label = drawn(source, seed, (6, 6, 8))
        beyond = label == IGNORE
        assert (image[:, beyond] == 0).all()
        assert (image[0][~beyond] == label[~beyond]).all()
        assert (~beyond).sum() == 4 * 6 * 5


def test_mirrored_organs_change_places_and_turned_ones_do_not():
    source, swapped = case(), 0
    for seed in range(60):
        image, label = drawn(source, seed, swaps=[(1, 2)])
        steps = [np.sign(np.diff(image[1], axis=axis).ravel()[0]) for axis in range(3)]
        across = abs(np.diff(image[1], axis=0).ravel()[0])
        mirrored = np.prod(steps) * (1 if across == 90 else -1) < 0
        table = np.array([0, 2, 1, 3]) if mirrored else np.arange(4)
        assert (label == table[image[0].astype(int)]).all()
        swapped += mirrored
    assert 10 < swapped < 50


def test_intensities_are_scaled_and_shifted_within_their_ranges():
    source = case(share=0.5)
    plain = drawn(source, 3, changes=CHANGES["none"])[0]
    gains, offsets = [], []
    for seed in range(60):
        image, label = drawn(source, seed, changes=Changes(scale=1.0, shift=1.0))
        offsets.append(image[0][label == 0].mean())
        gains.append((image[0][label == 1] - offsets[-1]).mean())
    assert plain.max() == plain.astype(int).max()
    assert 0.9 <= min(gains) < 0.95 < 1.05 < max(gains) <= 1.1
    assert -0.1 <= min(offsets) < -0.05 < 0.05 < max(offsets) <= 0.1


def test_a_patch_that_is_normalised_by_itself_has_mean_zero_of_its_own_voxels():
    image, _ = drawn(case(share=0.6, by_patch=True), 1, changes=CHANGES["flips"])
    inside = image[0] != 0
    assert abs(image[0][inside].mean()) < 1e-5
    assert abs(image[0][inside].std() - 1) < 1e-4


def test_what_follows_a_patch_has_the_voxels_of_its_image_bit_for_bit():
    for shape in ((12, 10, 9), (4, 9, 5)):
        source = case(shape)
        for seed in range(60):
            settings = PatchSettings((6, 6, 8), 0.5, MOVES)
            image, label = np.full((2, 6, 6, 8), np.nan, np.float32), np.zeros((6, 6, 8), np.uint8)
            draw_patch(source, settings, seed, image, label)
            out = np.full_like(image, np.nan)
            follow_patch(source, settings, seed, source.image, out, beyond=(-1.0, -2.0), swaps=())
            inside = label != IGNORE
            assert (out[:, inside] == image[:, inside]).all()
            assert (out[0, ~inside] == -1).all()
            assert (out[1, ~inside] == -2).all()


def test_channels_change_places_where_labels_do():
    source, exchanged = case(), 0
    settings = PatchSettings((6, 6, 5), 0.5, MOVES, swaps=[(1, 2)])
    marks = np.stack([source.label == value for value in range(4)]).astype(np.float32)
    for seed in range(60):
        image, label = drawn(source, seed, swaps=[(1, 2)])
        out = np.zeros((4, 6, 6, 5), np.float32)
        follow_patch(source, settings, seed, marks, out, beyond=(1, 0, 0, 0), swaps=[(1, 2)])
        assert (out.argmax(0) == label).all()
        exchanged += bool((image[0] != label).any())
    assert 10 < exchanged < 50
