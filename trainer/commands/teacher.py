"""`python -m trainer teacher convert`: a results folder of nnU-Net v2 as a teacher of this program."""

import argparse
import os
import shlex
import shutil
from pathlib import Path

from trainer.cli.parser import CommandLine
from trainer.errors import UserError, counted, refusal_text


def add_arguments(subparsers: "argparse._SubParsersAction[CommandLine]") -> None:
    """Add `convert` below `python -m trainer teacher`."""
    convert = subparsers.add_parser(
        "convert",
        help="make a teacher of a results folder of nnU-Net v2",
        description="Read plans.json, dataset.json and the folds' checkpoints of one trained configuration, and write\n"
        "their weights as safetensors with a description. No code of a checkpoint is run. Several folds are one\n"
        "teacher: the mean of their logits. Needs the extra nnunet.",
        epilog="example:\n  python -m trainer teacher convert \\\n"
        "      nnUNet_results/Dataset007_Pancreas/nnUNetTrainer__nnUNetPlans__3d_fullres -o teachers/pancreas",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument(
        "folder", type=Path, metavar="FOLDER", help="Trainer__Plans__configuration, with plans.json and fold_0, ..."
    )
    convert.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="the folder to write")
    convert.add_argument(
        "--folds", nargs="+", default=(), metavar="N", help="0 to 4, or all (default: every fold that is there)"
    )
    convert.add_argument(
        "--checkpoint", metavar="NAME", help="of each fold (default: checkpoint_final.pth, else _best, else _latest)"
    )
    convert.add_argument(
        "--splits", type=Path, metavar="FILE", help="splits_final.json (default: that in nnUNet_preprocessed)"
    )
    convert.set_defaults(teacher_command="convert")


def main(args: argparse.Namespace) -> int:
    """Convert, and say what came out. Raises UserError, CheckpointError."""
    from trainer.teacher.nnunet_folder import read

    output: Path = args.output
    if output.exists():
        raise UserError(f"{output}: is there already, and a teacher is never written over; name another folder")
    results = read(args.folder, folds=tuple(args.folds), name=args.checkpoint, splits=args.splits)
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True)
        made = results.write(beside)
        beside.rename(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({refusal_text(error)}); nothing was left there") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    folds = ", ".join(f"{fold.fold} (epoch {fold.epoch})" for fold in made.folds)
    kind = made.architecture.network.rpartition(".")[2]
    size = f"{results.numbers / 1e6:.3g} M parameters"
    print(f"{output}  {made.dataset} {made.configuration} by {made.trainer}: {kind}, {size}")
    print(f"  {counted(len(made.folds), 'fold')}: {folds}")
    print(f"  {counted(results.tensors, 'tensor')} a fold; {len(made.shared)} more names share their memory")
    print(f"  patch {_sides(made.spatial(made.patch))} voxels of {_sides(made.spatial(made.spacing))} mm along x, y, z")
    outputs = ", ".join(name for name, _ in made.classes)
    print(f"  {'regions' if made.regions else 'classes'}: {outputs}; channels: {', '.join(made.channels)}")
    print(f"  mirrored in training: {'yes' if made.mirroring else 'no'}")
    print("next:")
    print(f"  python -m search init RAW --teacher {shlex.quote(str(output))}   # RAW: nnUNet_raw/{made.dataset}")
    return 0


def _sides(values: tuple[float, float, float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
