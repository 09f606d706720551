"""The grid is read by people: nothing overlaps, every word is there, and colours mean what the legend says."""

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer.data.classes import TWO_CLASSES, LabelClass
from trainer.data.dataset import Pixels
from trainer.figures.cases import chosen
from trainer.figures.grid import (
    CELL,
    EXTRA,
    FAINT,
    INK,
    MISSED,
    PAPER,
    RIGHT,
    Cell,
    LegendEntry,
    cell_sized,
    compared,
    grid,
    legend,
    marked,
    overlay,
    reduced,
    tinted,
)

Box = tuple[float, float, float, float]


ORGANS = (
    LabelClass("ground", (0, 0, 0)),
    LabelClass("liver", (200, 0, 0)),
    LabelClass("spleen", (0, 0, 200)),
    LabelClass("aorta", (0, 200, 0)),
)


def grey(height: int, width: int) -> Pixels:
    """A plain picture."""
    return np.full((height, width, 3), 90, np.uint8)


class TestColours:
    truth = np.array([[1, 1, 0, 0, 255]], np.uint8)
    predicted = np.array([[1, 0, 1, 0, 1]], np.uint8)

    def test_right_too_much_and_missed_have_their_colours(self) -> None:
        shown = compared(grey(1, 5), self.predicted, self.truth)
        assert [tuple(pixel) for pixel in shown[0, :3]] == [RIGHT, MISSED, EXTRA]

    def test_right_background_and_ignored_pixels_stay(self) -> None:
        shown = compared(grey(1, 5), self.predicted, self.truth)
        assert np.array_equal(shown[0, 3:], grey(1, 5)[0, 3:])

    def test_a_wrong_class_is_too_much_and_not_right(self) -> None:
        shown = compared(grey(1, 1), np.array([[2]], np.uint8), np.array([[1]], np.uint8))
        assert tuple(shown[0, 0]) == EXTRA

    def test_a_region_is_tinted_with_its_edge_in_full_colour(self) -> None:
        where = np.zeros((7, 7), bool)
        where[1:6, 1:6] = True
        shown = tinted(grey(7, 7), where, (250, 0, 0), strength=0.5)
        assert tuple(shown[1, 3]) == (250, 0, 0)
        assert tuple(shown[3, 3]) == (170, 45, 45)
        assert tuple(shown[0, 0]) == (90, 90, 90)

    def test_an_empty_mask_changes_nothing_and_the_picture_given_is_never_drawn_on(self) -> None:
        image = grey(4, 4)
        assert np.array_equal(overlay(image, np.zeros((4, 4), np.uint8), TWO_CLASSES), image)
        overlay(image, np.ones((4, 4), np.uint8), TWO_CLASSES)
        assert np.array_equal(image, grey(4, 4))

    def test_labels_of_several_classes_have_several_colours(self) -> None:
        shown = overlay(grey(1, 3), np.array([[1, 2, 255]], np.uint8), ORGANS)
        assert [tuple(pixel) for pixel in shown[0]] == [(200, 0, 0), (0, 0, 200), (90, 90, 90)]


class TestSeveralClasses:
    """A square of one class that is predicted as another over its right half."""

    truth = np.zeros((24, 24), np.uint8)
    truth[2:22, 2:22] = 1
    predicted = truth.copy()
    predicted[2:22, 12:22] = 2

    def test_a_right_class_has_its_colour_and_a_wrong_one_stripes_over_the_predicted_colour(self) -> None:
        shown = marked(grey(24, 24), self.predicted, self.truth, ORGANS)
        assert shown[11, 7].tolist() == pytest.approx([0.35 * 90 + 0.65 * 200, 0.35 * 90, 0.35 * 90], abs=1)
        wrong = {tuple(pixel) for pixel in shown[4:20, 14:20].reshape(-1, 3)}
        assert wrong == {PAPER, INK, tuple(overlay(grey(24, 24), self.predicted, ORGANS)[11, 17])}
        assert {tuple(pixel) for pixel in shown[2:22, 12]} == {PAPER}

    def test_a_missed_class_is_striped_and_what_is_ignored_stays(self) -> None:
        ignored = np.where(self.truth == 1, np.uint8(255), self.truth)
        nothing = np.zeros_like(self.truth)
        assert np.array_equal(marked(grey(24, 24), self.predicted, ignored, ORGANS), grey(24, 24))
        shown = marked(grey(24, 24), nothing, self.truth, ORGANS)
        assert {tuple(pixel) for pixel in shown[2:22, 2:22].reshape(-1, 3)} == {PAPER, INK, (90, 90, 90)}
        assert np.array_equal(marked(grey(24, 24), nothing, nothing, ORGANS), grey(24, 24))

    def test_small_pictures_grow_to_a_cell_and_labels_stay_labels(self) -> None:
        assert cell_sized(grey(20, 10)).shape == (CELL, CELL // 2, 3)
        assert set(np.unique(cell_sized(self.predicted))) == {0, 1, 2}
        assert cell_sized(grey(1000, 500)).shape == (CELL, CELL // 2, 3)

    def test_a_legend_has_every_class_but_the_first_in_its_colour(self, paper: "Paper") -> None:
        pixels = np.asarray(legend(ORGANS))
        assert {"liver", "spleen", "aorta"} <= set(paper.words)
        assert "ground" not in paper.words
        colours = {tuple(pixel) for pixel in pixels.reshape(-1, 3)}
        assert {known.colour for known in ORGANS[1:]} <= colours

    def test_a_long_legend_takes_more_lines_and_overlaps_nothing(self, paper: "Paper") -> None:
        entries = [LegendEntry((n, 0, 0), f"class-with-a-long-name-{n}") for n in range(20)]
        entries += [LegendEntry((1, 1, 1), "x" * 200), LegendEntry(FAINT, "wrong class", hatched=True)]
        cells = [Cell(grey(40, 40), caption) for caption in ("name", "foreground 1%")]
        picture = grid("title", ["image", "truth"], [("worst 1", cells)], entries)
        boxes = [*paper.words.values(), *paper.pictures]
        assert {f"class-with-a-long-name-{n}" for n in range(20)} <= set(paper.words)
        for number, one in enumerate(boxes):
            assert one[2] <= picture.width
            assert one[3] <= picture.height
            assert not [other for other in boxes[number + 1 :] if overlaps(one, other)]


class TestChosen:
    def test_the_worst_come_first_and_the_median_cases_lie_in_the_middle(self) -> None:
        worst, median = chosen(np.arange(20.0)[::-1])
        assert worst == [19, 18, 17, 16]
        assert median == [11, 10, 9, 8]

    @pytest.mark.parametrize("count", [1, 3, 5, 8, 9])
    def test_few_images_are_shown_once_each(self, count: int) -> None:
        worst, median = chosen(np.linspace(0, 1, count))
        assert len(worst) == min(4, count)
        assert len({*worst, *median}) == len(worst) + len(median) == min(8, count)


class Paper:
    """Records where the grid draws."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words: dict[str, Box] = {}
        self.pictures: list[Box] = []
        text, paste = ImageDraw.ImageDraw.text, Image.Image.paste

        def record_text(draw: Any, xy: Any, words: str, fill: Any, font: Any, anchor: Any = None) -> None:
            self.words[words] = draw.textbbox(xy, words, font=font, anchor=anchor)
            text(draw, xy, words, fill, font, anchor=anchor)

        def record_paste(picture: Any, other: Any, place: Any) -> None:
            self.pictures.append((*place, place[0] + other.width, place[1] + other.height))
            paste(picture, other, place)

        monkeypatch.setattr(ImageDraw.ImageDraw, "text", record_text)
        monkeypatch.setattr(Image.Image, "paste", record_paste)


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Paper:
    """What is drawn where."""
    return Paper(monkeypatch)


def overlaps(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class TestReduced:
    def test_large_pictures_shrink_to_a_cell_and_labels_stay_labels(self) -> None:
        labels = np.zeros((1000, 500), np.uint8)
        labels[300:, 100:] = 255
        assert reduced(grey(1000, 500)).shape == (CELL, CELL // 2, 3)
        assert reduced(labels).shape == (CELL, CELL // 2)
        assert set(np.unique(reduced(labels))) == {0, 255}

    def test_small_pictures_stay(self) -> None:
        assert np.array_equal(reduced(grey(20, 30)), grey(20, 30))


class TestGrid:
    shapes = ((40, 50), (500, 300), (64, 64), (31, 400))

    def drawn(self) -> Image.Image:
        """Pictures of several shapes with long and short words."""
        rows = []
        for row, (height, width) in enumerate(self.shapes):
            long = f"some-source/a-picture-with-a-name-of-many-letters-{row:05d}"
            captions = [long, f"foreground 1{row}%", f"Dice 0.90{row}", f"Dice 0.80{row}"]
            rows.append((f"worst {row}", [Cell(grey(height, width), caption) for caption in captions]))
        return grid("A title " * 40, ["image", "truth", "teacher", "student"], rows)

    def test_neither_words_nor_pictures_overlap_or_leave_the_paper(self, paper: Paper) -> None:
        picture = self.drawn()
        boxes = [*paper.words.values(), *paper.pictures]
        assert len(paper.pictures) == 16
        for number, one in enumerate(boxes):
            assert one[0] >= 0
            assert one[1] >= 0
            assert one[2] <= picture.width
            assert one[3] <= picture.height
            assert not [other for other in boxes[number + 1 :] if overlaps(one, other)]

    def test_every_column_and_value_is_named_and_long_names_keep_both_ends(self, paper: Paper) -> None:
        self.drawn()
        said = set(paper.words)
        assert {"image", "truth", "teacher", "student", "right", "too much", "missed"} <= said
        assert {f"Dice 0.80{row}" for row in range(4)} <= said
        cut = [words for words in said if words.startswith("some-") and "..." in words]
        assert sorted(words[-5:] for words in cut) == [f"{row:05d}" for row in range(4)]

    def test_pictures_keep_their_shape(self, paper: Paper) -> None:
        self.drawn()
        for (height, width), box in zip(self.shapes, paper.pictures[::4], strict=True):
            shown = (box[3] - box[1], box[2] - box[0])
            assert max(shown) == CELL
            assert shown[0] / shown[1] == pytest.approx(height / width, rel=0.05)


def test_regions_that_overlap_are_all_seen():
    """The inner one lies above the outer one, and where two merely overlap the edge of each goes through the other."""
    regions = [LabelClass("outer", (0, 158, 115)), LabelClass("inner", (230, 159, 0)), LabelClass("aside", (200, 0, 0))]
    masks = np.zeros((3, 40, 40), np.uint8)
    masks[0, 5:35, 5:35], masks[1, 12:20, 12:20], masks[2, 25:39, 20:39] = 1, 1, 1
    seen = overlay(np.full((40, 40, 3), 255, np.uint8), masks, regions)
    tints = {at: tuple(seen[place]) for at, place in enumerate(((8, 8), (16, 16), (37, 37)))}
    assert len(set(tints.values())) == 3
    for at, colour in tints.items():
        assert colour == tuple(np.round(0.35 * 255 + 0.65 * np.array(regions[at].colour)).astype(int))
    assert tuple(seen[34, 25]) == regions[0].colour, "the edge of the outer one inside the one aside"
    assert tuple(seen[25, 25]) == regions[2].colour
    wrong = marked(np.full((40, 40, 3), 255, np.uint8), masks, np.zeros_like(masks), regions)
    assert {(255, 255, 255), (28, 30, 34)} <= {tuple(pixel) for pixel in wrong[6:34, 6:34].reshape(-1, 3)}
