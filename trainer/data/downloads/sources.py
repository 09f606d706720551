"""Where known data sets come from: addresses, checksums, terms, and what their folders hold. One literal table.

Nobody who wrote this table downloaded the archives. Addresses and pages are those that public programs and pages name.
A checksum stands here only where public programs agree on it, and who they are is said; where none is known the archive
is *unverified*: the hash of the first download is kept and compared the next time. What is from memory says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TORCH_EM = "as torch-em has it"
"""https://github.com/constantinpape/torch-em: loaders that check what they download."""
ISIC = "https://isic-challenge-data.s3.amazonaws.com"


@dataclass(frozen=True)
class Archive:
    """One file to be downloaded and unpacked."""

    url: str
    digest: str | None = None
    """`sha256:...` or `md5:...` in hexadecimal; None: unverified."""
    origin: str = ""
    """Who published the digest."""

    @property
    def name(self) -> str:
        """The file's name, the end of its address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """A data set: what it is, under which terms, where it comes from and how to know that it is whole."""

    title: str
    licence: str
    page: str
    """Where people read about it, accept its terms or register."""
    folder: str
    """Its folder below the root that a person names."""
    forms: tuple[Mapping[str, int], ...]
    """Pattern of files in that folder -> how many there are at least; the forms in which it is known."""
    archives: tuple[Archive, ...] = ()
    """Empty: closed, or not at an address that a program can use."""
    beside: bool = False
    """Whether the archives hold the folder itself, so that they are unpacked beside it."""
    steps: tuple[str, ...] = ()
    """What a person does by hand, a line each."""


SOURCES: Mapping[str, Source] = {
    "kvasir-seg": Source(
        title="Kvasir-SEG: polyps, 1000 pictures",
        licence="research and education; other use with written permission; cite Jha et al. 2020",
        page="https://datasets.simula.no/kvasir-seg/",
        folder="Kvasir-SEG",
        forms=({"images/*.jpg": 1000, "masks/*.jpg": 1000},),
        archives=(
            Archive(
                "https://datasets.simula.no/downloads/kvasir-seg.zip",
                "sha256:03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
                "as torch-em and others have it",
            ),
        ),
        beside=True,
    ),
    "isic-2018": Source(
        title="ISIC 2018 Task 1: skin lesions, 2594 + 100 + 1000 pictures (13 GB)",
        licence="most pictures CC0, some CC BY-NC: the file in each archive says which",
        page="https://challenge.isic-archive.com/data/#2018",
        folder="ISIC2018",
        forms=(
            {
                "ISIC2018_Task1-2_Training_Input/*.jpg": 2594,
                "ISIC2018_Task1_Training_GroundTruth/*.png": 2594,
                "ISIC2018_Task1-2_Validation_Input/*.jpg": 100,
                "ISIC2018_Task1_Validation_GroundTruth/*.png": 100,
                "ISIC2018_Task1-2_Test_Input/*.jpg": 1000,
                "ISIC2018_Task1_Test_GroundTruth/*.png": 1000,
            },
        ),
        archives=(
            Archive(
                f"{ISIC}/2018/ISIC2018_Task1-2_Training_Input.zip",
                "sha256:80f98572347a2d7a376227fa9eb2e4f7459d317cb619865b8b9910c81446675f",
                TORCH_EM,
            ),
            Archive(
                f"{ISIC}/2018/ISIC2018_Task1_Training_GroundTruth.zip",
                "sha256:99f8b2bb3c4d6af483362010715f7e7d5d122d9f6c02cac0e0d15bef77c7604c",
                TORCH_EM,
            ),
            Archive(
                f"{ISIC}/2018/ISIC2018_Task1-2_Validation_Input.zip",
                "sha256:0ea920fcfe512d12a6e620b50b50233c059f67b10146e1479c82be58ff15a797",
                TORCH_EM,
            ),
            Archive(
                f"{ISIC}/2018/ISIC2018_Task1_Validation_GroundTruth.zip",
                "sha256:f6911e9c0a64e6d687dd3ca466ca927dd5e82145cb2163b7a1e5b37d7a716285",
                TORCH_EM,
            ),
            Archive(
                f"{ISIC}/2018/ISIC2018_Task1-2_Test_Input.zip",
                "sha256:e59ae1f69f4ed16f09db2cb1d76c2a828487b63d28f6ab85997f5616869b127d",
                TORCH_EM,
            ),
            Archive(
                f"{ISIC}/2018/ISIC2018_Task1_Test_GroundTruth.zip",
                "sha256:2e8f6edce454a5bdee52485e39f92bd6eddf357e81f39018d05512175238ef82",
                TORCH_EM,
            ),
        ),
    ),
    "isic-2016": Source(
        title="ISIC 2016 Task 1: skin lesions, 900 + 379 pictures",
        licence="CC0",
        page="https://challenge.isic-archive.com/data/#2016",
        folder="ISIC2016",
        forms=(
            {
                "ISBI2016_ISIC_Part1_Training_Data/*.jpg": 900,
                "ISBI2016_ISIC_Part1_Training_GroundTruth/*.png": 900,
                "ISBI2016_ISIC_Part1_Test_Data/*.jpg": 379,
                "ISBI2016_ISIC_Part1_Test_GroundTruth/*.png": 379,
            },
        ),
        archives=(
            Archive(f"{ISIC}/2016/ISBI2016_ISIC_Part1_Training_Data.zip"),
            Archive(f"{ISIC}/2016/ISBI2016_ISIC_Part1_Training_GroundTruth.zip"),
            Archive(f"{ISIC}/2016/ISBI2016_ISIC_Part1_Test_Data.zip"),
            Archive(f"{ISIC}/2016/ISBI2016_ISIC_Part1_Test_GroundTruth.zip"),
        ),
    ),
    "glas": Source(
        title="GlaS, also Warwick-QU: glands in slides of the colon, 85 + 60 + 20 pictures",
        licence="research (from memory); the server may ask for a login",
        page="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest/",
        folder="GlaS",
        forms=({"**/train_*_anno.bmp": 85, "**/testA_*_anno.bmp": 60, "**/testB_*_anno.bmp": 20},),
        archives=(
            Archive(
                "https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest/download/"
                "warwick_qu_dataset_released_2016_07_08.zip",
                "md5:495b2a9f3d694545fbec06673fb3f40f",
                "as several public loaders have it",
            ),
        ),
    ),
    "cvc-clinicdb": Source(
        title="CVC-ClinicDB: polyps, 612 frames of 29 sequences",
        licence="research and education, registration",
        page="https://polyp.grand-challenge.org/CVCClinicDB/",
        folder="CVC-ClinicDB",
        forms=({"Original/*.tif": 612, "Ground Truth/*.tif": 612}, {"images/*.png": 612, "masks/*.png": 612}),
        steps=("unpack its archive, so that Original/ and Ground Truth/ lie in the folder",),
    ),
    "cvc-colondb": Source(
        title="CVC-ColonDB: polyps, 380 frames (the re-pack) or 300 (the release of 2012)",
        licence="research (from memory)",
        page="http://mv.cvc.uab.es/projects/colon-qa/cvccolondb",
        folder="CVC-ColonDB",
        forms=({"images/*.png": 380, "masks/*.png": 380}, {"p*.bmp": 300}),
        steps=(
            "put the re-pack's images/*.png and masks/*.png into the folder, or the release's <k>.bmp and p<k>.bmp",
        ),
    ),
    "etis-larib": Source(
        title="ETIS-LaribPolypDB: polyps, 196 frames of 34 sequences",
        licence="research, registration (from memory)",
        page="https://polyp.grand-challenge.org/EtisLarib/",
        folder="ETIS-LaribPolypDB",
        forms=(
            {"images/*.png": 196, "masks/*.png": 196},
            {"ETIS-LaribPolypDB/*.tif": 196, "Ground Truth/p*.tif": 196},
        ),
        steps=(
            "put images/*.png and masks/*.png into the folder, or the official ETIS-LaribPolypDB/ and Ground Truth/",
        ),
    ),
    "pranet": Source(
        title="PraNet's archives: polyps of five sets, 1450 to train and 798 to test",
        licence="those of Kvasir-SEG, CVC-ClinicDB, CVC-ColonDB, ETIS-LaribPolypDB and CVC-300",
        page="https://github.com/DengPingFan/PraNet",
        folder="PraNet",
        forms=(
            {"TrainDataset/image/*.png": 1450, "TestDataset/*/images/*.png": 798},
            {"TrainDataset/images/*.png": 1450, "TestDataset/*/images/*.png": 798},
        ),
        steps=(
            "take both archives from the drive that its page links to",
            "unpack them, so that TrainDataset/ and TestDataset/ lie in the folder",
        ),
    ),
    "segpc-2021": Source(
        title="SegPC-2021: plasma cells, 298 + 200 pictures with a mask a cell",
        licence="CC BY-NC-SA 4.0 (from memory), account at IEEE DataPort",
        page="https://ieee-dataport.org/open-access/segpc-2021-segmentation-multiple-myeloma-plasma-cells-microscopic-images",
        folder="SegPC-2021",
        forms=({"**/train/x/*.bmp": 298, "**/validation/x/*.bmp": 200},),
        steps=("unpack its archive into the folder, with all folders that lie in each other",),
    ),
    "synapse": Source(
        title="Synapse, also BTCV: abdominal CT, 2211 slices of 18 cases and 12 cases to test",
        licence="data use agreement of Synapse, no redistribution",
        page="https://www.synapse.org/#!Synapse:syn3193805",
        folder="Synapse",
        forms=({"train_npz/*.npz": 2211, "test_vol_h5/*.npy.h5": 12},),
        steps=(
            "get the slices that TransUNet's authors prepared, as https://github.com/Beckschen/TransUNet says",
            "put train_npz/ and test_vol_h5/ into the folder",
        ),
    ),
    "acdc": Source(
        title="ACDC: the heart in cine MRI, 100 patients to train and 50 to test, two frames each",
        licence="research, registration (from memory)",
        page="https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html",
        folder="ACDC",
        forms=(
            {
                "training/patient*/patient*_frame*_gt.nii.gz": 200,
                "testing/patient*/patient*_frame*_gt.nii.gz": 100,
            },
            {"training/patient*/patient*_frame*_gt.nii.gz": 200},
        ),
        steps=("unpack its archive, so that training/ and testing/ lie in the folder",),
    ),
    "monuseg": Source(
        title="MoNuSeg 2018: nuclei in slides of many organs, 30 or 37 pictures to train and 14 to test",
        licence="CC BY-NC-SA 4.0 (from memory)",
        page="https://monuseg.grand-challenge.org/Data/",
        folder="MoNuSeg",
        forms=(
            {
                "MoNuSeg 2018 Training Data/Tissue Images/*.tif": 30,
                "MoNuSeg 2018 Training Data/Annotations/*.xml": 30,
            },
        ),
        steps=(
            "take both archives from the drive that its page links to",
            "unpack them, so that MoNuSeg 2018 Training Data/ and the folder of the test pictures lie in the folder",
        ),
    ),
}
"""Name -> where it comes from; the names are those of the layouts."""
