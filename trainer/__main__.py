"""`python -m trainer COMMAND`: teach, fit, evaluate, predict, package, bundle, profile, models, data,
teacher.

What is heavy is imported inside the command.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from trainer.cli.missing_packages import absent, interrupted

try:
    from trainer import loggers
    from trainer.cli.entry import guard
    from trainer.cli.numbers import whole
    from trainer.cli.parser import CommandLine
    from trainer.cli.program import add_version_and_completion, program
    from trainer.evaluation.metrics import BATCH
except ModuleNotFoundError as error:
    sys.exit(absent(error))
except KeyboardInterrupt:
    sys.exit(interrupted())

SCRIPT = "kd-train"
"""The installed form of `python -m trainer`."""
COMMANDS = {
    "teach": "trainer.commands.teach",
    "fit": "trainer.commands.fit",
    "evaluate": "trainer.commands.evaluate",
    "predict": "trainer.commands.predict",
    "package": "trainer.package.command",
    "bundle": "trainer.bundle.command",
    "profile": "trainer.profiling.command",
    "models": "trainer.commands.models",
    "data": "trainer.commands.data",
    "teacher": "trainer.commands.teacher",
}
"""Command -> the module whose `main(args)` returns the exit code."""

CACHE = Path("cache")
_SET = "replace one value, written as TOML; may be repeated"


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The arguments of every command."""
    top = CommandLine(
        prog=program(SCRIPT, "trainer", arguments),
        description="Train, score and use single segmentation networks, with or without a teacher.",
        epilog="example: python -m trainer teach studies/polyp-kd.toml\n\n"
        "exit codes: 0 done, 1 not as promised, 2 your mistake (in one line), 130 interrupted",
    )
    add_version_and_completion(top, SCRIPT)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_teach(commands)
    _add_fit(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_package(commands)
    _add_bundle(commands)
    _add_profile(commands)
    _add_models(commands)
    _add_data(commands)
    _add_teacher(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the words name. Raises what its module raises; argparse exits with 2 on wrong words."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser(arguments).parse_args(arguments)
    _log()
    command = import_module(COMMANDS[args.command])
    code: int = command.main(args)
    return code


def _log() -> None:
    """Plain lines with the time on stderr; ranks other than the lead keep to warnings."""
    import os

    from loguru import logger

    level = "INFO" if os.environ.get("RANK", "0") == "0" else "WARNING"
    logger.remove()
    logger.add(sys.stderr, level=level, format="{time:HH:mm:ss} {message}")


Commands = argparse._SubParsersAction  # argparse gives the kind no public name


def _command(
    commands: "Commands[CommandLine]", name: str, *, summary: str, description: str, example: str
) -> argparse.ArgumentParser:
    """A command with its help; the example keeps its lines."""
    return commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 100),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_teach(commands: "Commands[CommandLine]") -> None:
    teach = _command(
        commands,
        "teach",
        summary="train the teacher that a study names",
        description="Train [run.teacher] on the data of [run] by its recipe, with [teach] over it, no distillation. "
        "Repeated, it goes on where it stopped, or says that there is nothing to do.",
        example="python -m trainer teach studies/polyp-kd.toml",
    )
    teach.add_argument("file", type=Path, metavar="FILE", help="a study file")
    teach.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="weights to write (default: run.teacher.checkpoint)"
    )
    teach.add_argument("--again", action="store_true", help="train anew over a finished file")
    # The series whose member FILE is, where a command that was given the series starts the ranks of one member.
    teach.add_argument("--series", type=Path, help=argparse.SUPPRESS)
    _add_training(teach, "processes that train together (default: 1)")


def _add_fit(commands: "Commands[CommandLine]") -> None:
    fit = _command(
        commands,
        "fit",
        summary="train one whole run, or repeat an exported one bit for bit",
        description="Train a run from a study file, an export or a run as JSON. An exported run is repeated with its "
        "ranks, threads and place in the stream, and its scores are compared; exit code 1 where they should be equal "
        "bit for bit and are not.",
        example="python -m trainer fit best.json --rank 1 -o student.safetensors",
    )
    fit.add_argument("file", type=Path, metavar="FILE", help="a study file, an export, or a run as JSON")
    fit.add_argument("--rank", type=whole(1), metavar="N", help="which configuration of an export (default: 1)")
    fit.add_argument("--runs", type=Path, metavar="DIR", help="keep checkpoints there; repeated, the run goes on")
    fit.add_argument("-o", "--output", type=Path, metavar="FILE", help="weights of the best epoch, as safetensors")
    _add_training(fit, "processes that train together (default: as recorded, else 1)")


def _add_training(command: argparse.ArgumentParser, ranks: str) -> None:
    command.add_argument("--ranks", type=whole(1), metavar="N", help=ranks)
    command.add_argument(
        "--threads", type=whole(1), metavar="N", help="threads of torch in each (default: as recorded)"
    )
    loggers.add_flags(command)
    # Where the ranks of a torchrun that the command itself started leave their outcome.
    command.add_argument("--outcome", type=Path, help=argparse.SUPPRESS)
    command.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help=_SET)
    _add_places(command)


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help="decoded pictures (default: %(default)s)"
    )
    command.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def _add_weights(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument("weights", type=Path, metavar="WEIGHTS", help=purpose)
    command.add_argument(
        "--data", type=Path, metavar="FILE", help="a study or run whose data is used (default: that of the weights)"
    )
    command.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help=f"with --data: {_SET}")
    command.add_argument("--precision", choices=["fp32", "bf16", "fp16"], help="(default: that of the run)")
    _add_places(command)


def _add_evaluate(commands: "Commands[CommandLine]") -> None:
    evaluate = _command(
        commands,
        "evaluate",
        summary="score weights on validation, or on the test rows with a record of it",
        description="Score the weights of a student or teacher at native size, with torchmetrics as a second opinion. "
        "Exit code 1 where the two differ by more than rounding.",
        example="python -m trainer evaluate student.safetensors --per-image scores.csv --json scores.json",
    )
    _add_weights(evaluate, "a file of `trainer fit -o`, `trainer teach` or a search")
    evaluate.add_argument("--open-test", action="store_true", help="score the test rows; who, when and why is recorded")
    evaluate.add_argument(
        "--openings", type=Path, metavar="DIR", help="folder of that record (default: the folder of the weights)"
    )
    evaluate.add_argument("--per-image", type=Path, metavar="FILE", help="write the scores of every image as CSV")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write what is printed as JSON; - is stdout")
    evaluate.add_argument(
        "--batch-size", type=whole(1), default=BATCH, metavar="N", help="images at once (default: %(default)s)"
    )
    evaluate.add_argument("--no-second-opinion", action="store_true", help="leave torchmetrics out; it is slow")


def _add_predict(commands: "Commands[CommandLine]") -> None:
    predict = _command(
        commands,
        "predict",
        summary="write masks for a folder of pictures, or a grid of validation cases",
        description="Masks as PNG at native size with overlays, or with --grid one picture of the 4 worst and 4 median "
        "validation cases: image, truth, teacher, student.",
        example="python -m trainer predict student.safetensors photographs/ -o masks/\n"
        "  python -m trainer predict ship/ photographs/ -o masks/\n"
        "  python -m trainer predict ship/ series/ -o labels/ --as nifti\n"
        "  python -m trainer predict best.json --grid -o predictions.png",
    )
    _add_weights(predict, "a package, a weights file, or an export whose weights are still there")
    predict.add_argument("images", nargs="?", type=Path, metavar="FOLDER", help="pictures or volumes to segment")
    predict.add_argument("--grid", action="store_true", help="draw validation cases beside truth and teacher")
    predict.add_argument(
        "--threshold", type=float, metavar="P", help="foreground above it (default: that of the package, else 0.5)"
    )
    predict.add_argument(
        "--as",
        dest="form",
        choices=["nifti", "dicom-seg"],
        help="what is written of volumes (default: dicom-seg of DICOM series, nifti of NIfTI)",
    )
    predict.add_argument(
        "--series", action="append", default=[], metavar="UID", help="the DICOM series to take; may be repeated"
    )
    predict.add_argument("--rank", type=whole(1), metavar="N", help="which configuration of an export (default: 1)")
    predict.add_argument("-o", "--output", type=Path, required=True, metavar="PATH", help="folder, or the grid's PNG")


def _add_package(commands: "Commands[CommandLine]") -> None:
    from trainer.package.precision import add_precision

    package = _command(
        commands,
        "package",
        summary="pack trained weights with an ONNX file, preprocessing, run, card and checksums",
        description="Write a folder with all that is needed to use a trained network elsewhere. The ONNX file is "
        "compared with torch on validation images; nothing is written where they differ, or over what is there.",
        example="python -m trainer package student.safetensors ship/",
    )
    package.add_argument("weights", type=Path, metavar="WEIGHTS", help="a file of `trainer fit -o` or a search")
    package.add_argument("folder", type=Path, metavar="DIR", help="the package; must not be there")
    package.add_argument(
        "--data", type=Path, metavar="FILE", help="a study or run whose data is used (default: that of the weights)"
    )
    package.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help=f"with --data: {_SET}")
    package.add_argument(
        "--threshold", type=float, metavar="P", help="a pixel is foreground above this probability (default: 0.5)"
    )
    add_precision(package)
    package.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help="decoded pictures (default: %(default)s)"
    )


def _add_bundle(commands: "Commands[CommandLine]") -> None:
    from trainer.bundle.command import add_arguments

    bundle = _command(
        commands,
        "bundle",
        summary="write a package for volumes as a MONAI bundle",
        description="Write configs, weights and docs as MONAI's programs read them, from a package for volumes whose "
        "network and steps MONAI has, too. MONAI is not needed for it.",
        example="python -m trainer bundle ship/ monai-bundle/",
    )
    add_arguments(bundle)


def _add_profile(commands: "Commands[CommandLine]") -> None:
    from trainer.profiling.command import add_measuring

    profile = _command(
        commands,
        "profile",
        summary="measure time and memory of a network on this machine",
        description="Measure latency, throughput and peak memory of a package, an ONNX file, weights or a run on this "
        "machine; with -o as a row of the table that [limits] latency_ms reads. The network alone is measured: "
        "pictures are neither read nor resized.",
        example="python -m trainer profile student.safetensors --threads 1 -o latency.csv",
    )
    profile.add_argument("file", type=Path, metavar="FILE", help="a package, .onnx, .safetensors, study or run")
    profile.add_argument("--size", type=whole(1), metavar="N", help="side of the input (default: that of the run)")
    profile.add_argument(
        "--runtime",
        choices=["torch", "onnxruntime"],
        help="(default: onnxruntime for what has an ONNX file, else torch)",
    )
    add_measuring(profile)


def _add_models(commands: "Commands[CommandLine]") -> None:
    from trainer.commands.models import add_arguments

    models = _command(
        commands,
        "models",
        summary="list every network by name, with its size and what it costs",
        description="Show networks with their defaults for 3 channels and 2 classes: width, parameters (dead ones, "
        "which no gradient reaches, apart), operations and memory of a training step at 224 and 352 pixels, taps, "
        "pretrained encoders and paper. Nothing is trained or fetched.",
        example="python -m trainer models ducknet-17",
    )
    add_arguments(models)


def _add_data(commands: "Commands[CommandLine]") -> None:
    from trainer.commands.data import add_arguments

    data = commands.add_parser(
        "data",
        help="fetch data sets, write split files and check data",
        description="Fetch known data sets, write and check split files.",
        epilog="example:\n  python -m trainer data check splits/mine.csv --root $HOME/polyps",
    )
    add_arguments(data.add_subparsers(dest="data_command", required=True, metavar="COMMAND"))


def _add_teacher(commands: "Commands[CommandLine]") -> None:
    from trainer.commands.teacher import add_arguments

    teacher = commands.add_parser(
        "teacher",
        help="convert a results folder of nnU-Net into a teacher",
        description="Make a teacher of what another program trained.",
        epilog="example:\n  python -m trainer teacher convert \\\n"
        "      nnUNet_results/Dataset007_Pancreas/nnUNetTrainer__nnUNetPlans__3d_fullres -o teachers/pancreas",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(teacher.add_subparsers(dest="teacher_command", required=True, metavar="COMMAND"))


def kd_train() -> int:
    """The script `kd-train`."""
    return guard(main)


if __name__ == "__main__":
    sys.exit(kd_train())
