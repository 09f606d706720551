"""Pictures with labels over them, in a labelled grid with a legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trainer.data.classes import Colour, LabelClass
from trainer.data.dataset import Pixels
from trainer.evaluation.confusion import IGNORE

CELL = 232
"""Pixels of a cell of the grid, each way."""
GAP, CAPTION, MARGIN = 12, 24, 20

INK, PAPER, FAINT = (28, 30, 34), (255, 255, 255), (110, 114, 120)
RIGHT, EXTRA, MISSED = (0, 158, 115), (240, 228, 66), (0, 114, 178)
"""Green, yellow and blue that stay apart for the colour-blind (Okabe and Ito 2008), and from red tissue."""
HATCH = 6
"""Pixels from one stripe over wrong pixels to the next: two white, one dark, and three that are not covered."""


class LegendEntry(NamedTuple):
    """A square of a colour and what it stands for."""

    colour: Colour
    text: str
    hatched: bool = False


TWO_CLASS_LEGEND = (LegendEntry(RIGHT, "right"), LegendEntry(EXTRA, "too much"), LegendEntry(MISSED, "missed"))


@dataclass(frozen=True)
class Cell:
    """One picture of the grid with the words below it."""

    image: Pixels
    """(height, width, 3) RGB."""
    caption: str


def tinted(image: Pixels, where: NDArray[np.bool_], colour: Colour, strength: float = 0.45) -> Pixels:
    """A region tinted, with its edge in full colour. Image (H, W, 3), region (H, W)."""
    out = image.astype(np.float32)
    out[where] = (1 - strength) * out[where] + strength * np.array(colour, np.float32)
    out[_edge(where)] = colour
    return out.round().astype(np.uint8)


def overlay(image: Pixels, labels: Pixels, classes: Sequence[LabelClass], order: Sequence[int] | None = None) -> Pixels:
    """Every label but 0 and 255 tinted in its class's colour, of more than two classes more strongly, so that each can
    be told from the others. Image (H, W, 3), labels (H, W); or masks of regions (regions, H, W), which lie above one
    another in `order`, else the smaller above the larger, with all edges above all tints."""
    if labels.ndim == 3:
        return _overlapping(image, labels == 1, classes, order)
    strength = 0.45 if len(classes) == 2 else 0.65
    for label in np.unique(labels):
        if label not in (0, IGNORE):
            image = tinted(image, labels == label, classes[int(label)].colour, strength)
    return image


def _overlapping(
    image: Pixels, masks: NDArray[np.bool_], regions: Sequence[LabelClass], order: Sequence[int] | None
) -> Pixels:
    """Regions that may overlap in their colours; masks (regions, H, W). A pixel has the colour of the uppermost that it
    is in, as the legend shows it, and not a mixture."""
    if order is None:
        order = sorted(range(len(masks)), key=lambda at: -int(masks[at].sum()))
    out = image.copy()
    for at in order:
        where = masks[at]
        out[where] = tinted(image, where, regions[at].colour, 0.65)[where]
    for at in order:
        out[_edge(masks[at])] = regions[at].colour
    return out


def compared(image: Pixels, predicted: Pixels, truth: Pixels) -> Pixels:
    """Of two classes what is right, too much and missed, each in its colour; ignored pixels stay as they are."""
    valid = truth != IGNORE
    right = valid & (predicted == truth) & (truth > 0)
    extra = valid & (predicted > 0) & (predicted != truth)
    missed = valid & (predicted == 0) & (truth > 0)
    for where, colour in ((right, RIGHT), (extra, EXTRA), (missed, MISSED)):
        image = tinted(image, where, colour)
    return image


def marked(
    image: Pixels,
    predicted: Pixels,
    truth: Pixels,
    classes: Sequence[LabelClass],
    order: Sequence[int] | None = None,
) -> Pixels:
    """The predicted classes in their colours, with white and dark stripes in a white edge where they are wrong; ignored
    pixels stay as they are. Image (H, W, 3), labels (H, W), or masks of regions (regions, H, W) with an order as for
    `overlay`."""
    valid = truth != IGNORE
    out = overlay(image, np.where(valid, predicted, 0).astype(np.uint8), classes, order).copy()
    wrong = valid & (predicted != truth)
    wrong = wrong.any(axis=0) if wrong.ndim == 3 else wrong
    rows, columns = np.indices(wrong.shape)
    stripe = (rows + columns) % HATCH
    out[wrong & (stripe < 2)] = PAPER
    out[wrong & (stripe == 2)] = INK
    out[_edge(wrong)] = PAPER
    return out


def legend(classes: Sequence[LabelClass]) -> Image.Image:
    """The colour and the name of each class but the first, a line each."""
    entries = [LegendEntry(known.colour, known.name) for known in classes[1:]]
    width = round(max(_font(14).getlength(entry.text) for entry in entries)) + 20 + 2 * MARGIN
    picture = Image.new("RGB", (width, len(entries) * CAPTION + 2 * MARGIN), PAPER)
    for line, entry in enumerate(entries):
        _draw_legend(ImageDraw.Draw(picture), [entry], MARGIN, MARGIN + line * CAPTION + 4)
    return picture


def cell_sized(pixels: Pixels) -> Pixels:
    """A picture (H, W, 3) or labels (H, W) at the size of a cell, larger ones as `reduced` makes them, smaller ones as
    the pixels they are, so that stripes are as wide in every cell."""
    height, width = pixels.shape[:2]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grown = scale > 1
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)) if grown else reduced(pixels)


def reduced(pixels: Pixels) -> Pixels:
    """A picture (H, W, 3) or labels (H, W) at the size of a cell where it is larger, so that edges are drawn at the
    size at which they are seen; labels stay labels."""
    height, width = pixels.shape[:2]
    scale = min(1.0, CELL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if pixels.ndim == 2 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize(size, how)) if scale < 1 else pixels


def grid(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    entries: Sequence[LegendEntry] = TWO_CLASS_LEGEND,
) -> Image.Image:
    """A labelled grid: a title, a name above each column, words beside each row, a legend at the foot.

    Every row has a cell for each column. Words that are too long for their place are cut in the middle; a legend that
    is too long takes more lines.
    """
    side = _side([label for label, _ in rows])
    width = 2 * MARGIN + side + len(columns) * (CELL + GAP)
    top = MARGIN + 2 * CAPTION + GAP
    lines = _legend_lines(entries, width - 2 * MARGIN - side)
    foot = top + len(rows) * (CELL + CAPTION + GAP)
    height = foot + len(lines) * CAPTION + MARGIN
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), _cut(title, width - 2 * MARGIN, _font(17)), INK, _font(17))
    for column, name in enumerate(columns):
        left = MARGIN + side + column * (CELL + GAP)
        draw.text((left, MARGIN + CAPTION + GAP), _cut(name, CELL, _font(15)), INK, _font(15))
    for row, (label, cells) in enumerate(rows):
        upper = top + row * (CELL + CAPTION + GAP)
        draw.text((MARGIN, upper + CELL // 2), label, INK, _font(15), anchor="lm")
        for column, cell in enumerate(cells):
            left = MARGIN + side + column * (CELL + GAP)
            shown = _fitted(cell.image)
            picture.paste(shown, (left, upper))
            draw.text((left, upper + shown.height + 3), _cut(cell.caption, CELL, _font(14)), FAINT, _font(14))
    for number, line in enumerate(lines):
        _draw_legend(draw, line, MARGIN + side, foot + number * CAPTION + 4)
    return picture


def _legend_lines(entries: Sequence[LegendEntry], width: int) -> list[list[LegendEntry]]:
    """The entries in lines that are at most `width` pixels wide; names that are wider alone are cut."""
    lines: list[list[LegendEntry]] = [[]]
    left = 0
    for entry in entries:
        fitting = entry._replace(text=_cut(entry.text, width - 20, _font(14)))
        if lines[-1] and left + _entry_width(fitting) - 24 > width:
            lines.append([])
            left = 0
        lines[-1].append(fitting)
        left += _entry_width(fitting)
    return lines


def _entry_width(entry: LegendEntry) -> int:
    return 20 + round(_font(14).getlength(entry.text)) + 24


def _draw_legend(draw: ImageDraw.ImageDraw, entries: Sequence[LegendEntry], left: int, top: int) -> None:
    for entry in entries:
        draw.rectangle((left, top, left + 14, top + 14), fill=entry.colour)
        if entry.hatched:
            where = [(x, y) for x in range(15) for y in range(15)]
            draw.point([(left + x, top + y) for x, y in where if (x + y) % HATCH < 2], PAPER)
            draw.point([(left + x, top + y) for x, y in where if (x + y) % HATCH == 2], INK)
        draw.text((left + 20, top - 1), entry.text, INK, _font(14))
        left += _entry_width(entry)


def _fitted(image: Pixels) -> Image.Image:
    """The picture at the width or height of a cell, whichever it reaches first."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Small pictures are shown as the pixels they are; large ones are averaged down.
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def _side(labels: Sequence[str]) -> int:
    return round(max((_font(15).getlength(each) for each in labels), default=0)) + GAP + 4


def _cut(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """The text, or its two ends with dots between where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(_ends(text, kept)) > width:
        kept -= 1
    return _ends(text, kept)


def _ends(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType, so words cannot be drawn; install a wheel of it")
    return font


def _edge(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a region with a neighbour, above, below or beside, that is outside it."""
    padded = np.pad(where, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return where & ~inner
