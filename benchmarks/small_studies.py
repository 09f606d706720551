"""Two questions of the published studies at a small size, on real pictures, by the commands that their heads name.

    OMP_NUM_THREADS=1 python -m benchmarks.small_studies series --data FOLDER -o PLACE
    OMP_NUM_THREADS=1 python -m benchmarks.small_studies selfreg --data FOLDER -o PLACE

`series`: the twelve members of studies/unet-kd-series.toml, two data sets with three pairs of networks with a teacher
and without, at 48 x 48 pixels; FOLDER holds `Kvasir-SEG`, with folders of parts, and `ISIC2018`, as its archives are.
`selfreg`: self-regularisation with lambda and without, of U-Net and of Swin-Unet, at 128 x 128 pixels
(`selfreg_polyps.toml`); FOLDER holds `Kvasir-SEG` and `CVC-ClinicDB` with folders of parts.

What is taught, worked on, confirmed and reported lies in PLACE; repeated, it goes on where it stopped.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from trainer.cli.entry import guard
from trainer.errors import UserError

HERE = Path(__file__).parent
SERIES, SELFREG = "unet-kd-small", "selfreg_polyps"
SMALLER = {
    "epochs     = 50": "epochs     = 6",
    "batch_size = 16": "batch_size = 8",
    'precision  = "fp32"': 'precision  = "fp32"\nvalidate   = { from = 4, every = 2 }',
    "size    = 224": "size    = 48",
    'augment = "standard"': 'augment = "flips"',
    "min_dice   = 0.50": "min_dice   = 0.30",
    "lr       = 1e-4": "lr       = 2e-3",
    '"optim.lr" = 1e-4': '"optim.lr" = 2e-3',
    "low = 3e-5, high = 3e-3": "low = 3e-4, high = 1e-2",
    "epochs = 100\n": "epochs = 10\n",
    "trials     = 24 ": "trials     = 2  ",
    "warmup_epochs = 10": "warmup_epochs = 4",
    "top   = 2": "top   = 1",
    # Without normalisation, or with few pixels around each, networks learn nothing in so few steps.
    'name       = "unet-awesome"\n': 'name       = "unet"\nwidth      = 16\n',
    'name = "small-double"\n': 'name  = "unet"\nwidth = 4\n',
    '"run.teacher.name" = "unet-awesome"': '"run.teacher.name" = "unet"',
    '"run.student.name" = "small-double"': '"run.student.name" = "unet"',
    '"run.student.name" = "small-tail-attention"': '"run.student.name" = "attention-unet"',
    '"run.teacher.name" = "unetplusplus-awesome"': '"run.teacher.name" = "unetplusplus"',
    '"run.student.name" = "small-tail-wide"': '"run.student.name" = "unetplusplus"',
}
"""What the small series has in place of the shipped one: each stands there once."""


def small_series() -> str:
    """The text of the shipped series with the changes of `SMALLER`, its head left out. Raises UserError where the
    shipped file holds one of them not once."""
    shipped = HERE.parent / "studies" / "unet-kd-series.toml"
    text = "[objective]" + shipped.read_text().split("\n[objective]", 1)[1]
    for old, new in SMALLER.items():
        if text.count(old) != 1:
            raise UserError(f"{shipped}: holds {old!r} {text.count(old)} times; the changes of this file follow it")
        text = text.replace(old, new)
    return text


def split(place: Path, name: str, folders: list[Path], root: Path, *more: str) -> list[str]:
    """The command that writes a split file, with the images' folders under `root`."""
    given = [*map(str, folders), "--root", str(root)]
    return ["trainer", "data", "split", *given, "-o", str(place / "splits" / f"{name}.csv"), *more]


def series_commands(place: Path, data: Path) -> Iterator[list[str]]:
    """The commands of the head of the shipped series, with the small one's name."""
    kvasir, isic = data / "Kvasir-SEG", data / "ISIC2018"
    yield split(place, "kvasir", [kvasir], kvasir)
    yield split(place, "isic2018", [isic], isic, "--fractions", "36,12,12")
    yield ["trainer", "teach", f"studies/{SERIES}.toml"]
    yield from study_commands(SERIES)


def selfreg_commands(place: Path, data: Path) -> Iterator[list[str]]:
    """The commands of the study of lambda: nothing is taught."""
    yield split(place, "kvasir-clinic", [data / "Kvasir-SEG", data / "CVC-ClinicDB"], data)
    yield from study_commands(SELFREG)


def study_commands(name: str) -> Iterator[list[str]]:
    """From the check of a file to its report."""
    for command in ("validate", "work", "confirm", "report"):
        quiet = ["--note-every", "0"] if command in ("work", "confirm") else []
        yield ["search", command, name, *quiet]


def main() -> int:
    """Write the study file and run the commands; ends with the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("series", "selfreg"))
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds the data sets")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PLACE", help="folder of all that is made")
    args = parser.parse_args()
    place, data = args.output.absolute(), args.data.absolute()
    (place / "studies").mkdir(parents=True, exist_ok=True)
    if args.what == "series":
        name, text, commands = SERIES, small_series(), series_commands(place, data)
    else:
        name, text, commands = SELFREG, (HERE / f"{SELFREG}.toml").read_text(), selfreg_commands(place, data)
    (place / "studies" / f"{name}.toml").write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "KVASIR_ROOT": str(data / "Kvasir-SEG"),
        "ISIC2018_ROOT": str(data / "ISIC2018"),
        "POLYP_ROOT": str(data),
    }
    for words in commands:
        if words[:3] == ["trainer", "data", "split"] and Path(words[words.index("-o") + 1]).is_file():
            continue
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", *words], cwd=place, env=environment, check=False).returncode
        print(f"{' '.join(words)}: exit code {code}, {time.monotonic() - began:.0f} s", flush=True)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
