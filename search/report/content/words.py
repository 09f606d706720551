"""What a page says of images, for data of volumes: cases are scored, voxels counted, and a network takes patches."""

import re

WORDS = (
    (re.compile(r"\b(GFLOP|ms|latency)( of one| an) image\b"), r"\1\2 patch"),
    (re.compile(r"\ban patch\b"), "a patch"),
    (re.compile(r"\b([Aa])n image\b"), r"\1 case"),
    (re.compile(r"\bimage(s?)\b"), r"case\1"),
    (re.compile(r"\bImage(s?)\b"), r"Case\1"),
    (re.compile(r"\bpixel(s?)\b"), r"voxel\1"),
)
"""What is replaced by what, in this order."""
COMMAND = ": python "


def of_volumes(text: str) -> str:
    """A sentence, heading or legend on images in words for volumes; a command at its end stays as it is."""
    sentence, before, command = text.partition(COMMAND)
    for pattern, words in WORDS:
        sentence = pattern.sub(words, sentence)
    return f"{sentence}{before}{command}"
