"""Outlines of MoNuSeg, as Aperio ImageScope writes them."""

import numpy as np
import pytest
from PIL import Image

from trainer.config import PictureData
from trainer.data.files import read_outlines
from trainer.data.masks import coding_of_classes
from trainer.data.reading import Reading, reading_of
from trainer.errors import DataError


def reading(classes: list[dict[str, object]]) -> Reading:
    config = PictureData(name="pictures", root="/nowhere", split="split.csv", size=32, classes=classes)
    return reading_of(config, coding_of_classes(config.classes, config.ignore))


def outlines(*polygons: list[tuple[float, float]]) -> str:
    regions = "".join(
        "<Region><Vertices>" + "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in polygon) + "</Vertices></Region>"
        for polygon in polygons
    )
    return f'<Annotations MicronsPerPixel="0.25"><Annotation><Regions>{regions}</Regions></Annotation></Annotations>'


def test_outlines_are_the_union_of_their_polygons(tmp_path):
    squares = [[(2, 1), (8, 1), (8, 5), (2, 5)], [(6.2, 3.4), (12, 3), (12, 7), (6, 7)], [(0, 0), (1, 0)]]
    (tmp_path / "a.xml").write_text(outlines(*squares))
    expected = np.zeros((10, 14), bool)
    expected[1:6, 2:9] = expected[3:8, 6:13] = True
    assert np.array_equal(read_outlines(tmp_path / "a.xml", (10, 14)), expected)
    Image.fromarray(np.zeros((10, 14, 3), np.uint8)).save(tmp_path / "a.png")
    classes = [{"name": "ground", "value": 7}, {"name": "nucleus", "value": [1, 255]}]
    assert np.array_equal(reading(classes).pair(tmp_path / "a.png", tmp_path / "a.xml")[1], expected)
    classes.append({"name": "rim", "value": 9})
    with pytest.raises(DataError, match=r"data.classes have 3"):
        reading(classes).pair(tmp_path / "a.png", tmp_path / "a.xml")


HOLED = """<?xml version="1.0"?>
<Annotations MicronsPerPixel="0.252000">
 <Annotation Id="1" Name="" ReadOnly="0" Type="4" LineColor="65280">
  <Attributes><Attribute Name="Description" Id="0" Value=""/></Attributes>
  <Regions>
   <RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/></RegionAttributeHeaders>
   <Region Id="1" Type="0" Zoom="1" NegativeROA="1" InputRegionId="0" Analyze="0" DisplayId="1"><Attributes/>
    <Vertices>
     <Vertex X="3" Y="3" Z="0"/><Vertex X="9" Y="3" Z="0"/>
     <Vertex X="9" Y="9" Z="0"/><Vertex X="3" Y="9" Z="0"/>
    </Vertices></Region>
   <Region Id="2" Type="0" Zoom="1" NegativeROA="0" InputRegionId="0" Analyze="0" DisplayId="2"><Attributes/>
    <Vertices>
     <Vertex X="1" Y="1" Z="0"/><Vertex X="11" Y="1" Z="0"/>
     <Vertex X="11" Y="11" Z="0"/><Vertex X="1" Y="11" Z="0"/>
    </Vertices></Region>
   <Region Id="3" Type="0" Zoom="1" NegativeROA="0" InputRegionId="0" Analyze="0" DisplayId="3"><Attributes/>
    <Vertices>
     <Vertex X="5" Y="5" Z="0"/><Vertex X="6" Y="5" Z="0"/>
     <Vertex X="6" Y="7" Z="0"/><Vertex X="5" Y="7" Z="0"/>
    </Vertices></Region>
   <Region Id="4" Type="0" Zoom="1" NegativeROA="1" InputRegionId="0" Analyze="0" DisplayId="4"><Attributes/>
    <Vertices>
     <Vertex X="0" Y="0" Z="0"/><Vertex X="15" Y="15" Z="0"/>
    </Vertices></Region>
  </Regions>
 </Annotation>
 <Annotation Id="2" Name="" ReadOnly="0" Type="4" LineColor="255">
  <Regions><Region Id="1" Type="0" Zoom="1" NegativeROA="0" InputRegionId="0" Analyze="0" DisplayId="1"><Attributes/>
    <Vertices>
     <Vertex X="8" Y="8" Z="0"/><Vertex X="13" Y="8" Z="0"/>
     <Vertex X="13" Y="9" Z="0"/><Vertex X="8" Y="9" Z="0"/>
    </Vertices></Region></Regions>
 </Annotation>
</Annotations>
"""
"""A nucleus with a hole that stands before it in the file, one in the hole, a hole without an inside, and a second
annotation, as ImageScope writes them."""


def test_a_region_of_negative_area_is_a_hole_in_larger_ones_of_its_annotation(tmp_path):
    (tmp_path / "a.xml").write_text(HOLED)
    shown = read_outlines(tmp_path / "a.xml", (13, 15)).astype(int)
    assert ["".join(map(str, row)) for row in shown] == [
        "000000000000000",
        "011111111111000",
        "011111111111000",
        "011000000011000",
        "011000000011000",
        "011001100011000",
        "011001100011000",
        "011001100011000",
        "011000001111110",
        "011000001111110",
        "011111111111000",
        "011111111111000",
        "000000000000000",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HOLED.replace('NegativeROA="0"', 'NegativeROA="1"'), "holds holes alone"),
        (HOLED.replace('NegativeROA="0"', 'NegativeROA="yes"', 1), r'region 2 has NegativeROA="yes"; known: 0 '),
        (outlines(), "holds no polygons"),
        (outlines([(1, 2), (3, 4)]), "holds no polygons"),
        ("<Annotations><Region><Vertex X='1' /></Region></Annotations>", "a vertex has no numbers X and Y"),
        (outlines([(1, 2), (3, 4), (float("inf"), 1)]), "a vertex has no numbers X and Y"),
        ("<Annotations>", "damaged or no XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a />", "declares entities"),
    ],
)
def test_outlines_that_cannot_be_used_are_one_line(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_outlines(tmp_path / "a.xml", (10, 10))
