"""What the owners of public data sets allow, as far as this program knows it; the files that come with a set decide."""

from collections.abc import Iterable, Mapping

TERMS: Mapping[str, str] = {
    "Kvasir-SEG": "research and education with citation (Jha et al. 2020); other use needs the owners' permission",
    "CVC-ClinicDB": "research with citation (Bernal et al. 2015); its frames come from 29 sequences",
    "CVC-ColonDB": "research with citation (Bernal et al. 2012); its frames come from 15 sequences",
    "ETIS-LaribPolypDB": "research with citation (Silva et al. 2014); its frames come from 34 sequences",
    "blobs": "drawn by this program; free of anybody's terms",
}
"""Source, as a split file names it -> its terms."""
UNKNOWN = "unknown to this program: ask whoever gave you the images"


def terms(sources: Iterable[str]) -> dict[str, str]:
    """The terms of sources by name, sorted; UNKNOWN for those that are not in TERMS."""
    return {source: TERMS.get(source, UNKNOWN) for source in sorted(set(sources))}
