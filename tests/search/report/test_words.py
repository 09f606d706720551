"""What a page says of volumes."""

import pytest

from search.report.content.words import of_volumes
from search.report.table_formats import Column, Table


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("GFLOP of one image", "GFLOP of one patch"),
        ("It takes 3 GFLOP an image and the search took 2 min", "It takes 3 GFLOP a patch and the search took 2 min"),
        ("averaged over images; an image whose truth is empty", "averaged over cases; a case whose truth is empty"),
        ("Images; the share of pixels", "Cases; the share of voxels"),
        ("Confirm on images: python -m search confirm images", "Confirm on cases: python -m search confirm images"),
        ("imagesTr stays", "imagesTr stays"),
    ],
)  # fmt: skip
def test_sentences_on_images_speak_of_cases(text, said):
    assert of_volumes(text) == said


def test_headings_are_read_as_cases_and_scripts_keep_their_names():
    table = Table("t", "Scores of images", (Column("images", "count"), Column("dice", read_as="Dice")), ((3, 0.5),))
    spoken = table.spoken(of_volumes)
    assert [column.title for column in spoken.columns] == ["images", "dice"]
    assert [column.title for column in spoken.for_readers().columns] == ["cases", "Dice"]
    assert spoken.title == "Scores of cases"
