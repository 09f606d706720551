"""`python -m trainer bundle`: a package for volumes as a MONAI bundle, for MONAI's own programs.

A bundle is a folder of configs/ (what MONAI builds and runs), models/ (a state dict) and docs/
(https://docs.monai.io/en/stable/mb_specification.html). MONAI is not needed to write one.
"""

import argparse
import os
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.bundle.inference import WEIGHTS as MODEL
from trainer.bundle.inference import inference_config, refuse_other_ways
from trainer.bundle.network import monai_state, network_def
from trainer.errors import UserError, refusal_text
from trainer.package.inference import CARD, NETWORK, WEIGHTS, check_sums, document
from trainer.package.opened import preprocessing_of
from trainer.package.volumes import VolumePreprocessing

if TYPE_CHECKING:
    from trainer.checkpoint import Ready

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
"""What MONAI holds metadata.json against; nothing is fetched from there here."""
MONAI, IGNITE = "1.6.1", "0.5.5"
"""The versions that bundles were run with."""
FIRST = "1.0.0"
"""The version of a bundle; a later one of the same student is the writer's to count."""
CONFIGS, DOCS = "configs", "docs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="a package for volumes")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the bundle; must not be there")


def main(args: argparse.Namespace) -> int:
    """Write the bundle and say how it is run. Raises UserError, CheckpointError."""
    import torch

    from trainer.checkpoint import ready

    package, folder = args.package, args.folder
    if folder.exists():
        raise UserError(f"{folder}: is there already, and a bundle is never written over; name another folder")
    check_sums(package)
    p = preprocessing_of(package)
    if not isinstance(p, VolumePreprocessing):
        raise UserError(f"{package}: is for pictures; bundles are of volumes, use the package itself")
    refuse_other_ways(p)
    made = ready(package / WEIGHTS, device=torch.device("cpu"))
    network = network_def(made.run.student, channels=p.channel_count, classes=len(p.classes))
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        for name in (CONFIGS, "models", DOCS):
            (beside / name).mkdir(parents=True)
        _write(beside / CONFIGS / "inference.json", document(inference_config(p, network)))
        _write(beside / CONFIGS / "metadata.json", document(_metadata(made, p)))
        torch.save(monai_state(made.run.student, made.network.state_dict()), beside / MODEL)
        shutil.copyfile(package / NETWORK, beside / "models" / "model.onnx")
        _write(beside / DOCS / "README.md", _readme(folder, (package / CARD).read_text(encoding="utf-8")))
        beside.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({refusal_text(error)}); nothing was left there") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"{folder}  {CONFIGS}/inference.json {CONFIGS}/metadata.json {MODEL} models/model.onnx {DOCS}/README.md")
    print(f"next: {_run(folder)}")
    return 0


def _run(folder: Path) -> str:
    where = shlex.quote(str(folder))
    return (
        f"python -m monai.bundle run --config_file {where}/{CONFIGS}/inference.json --bundle_root {where} "
        "--dataset_dir CASES --output_dir labels"
    )


def _metadata(made: "Ready", p: VolumePreprocessing) -> dict[str, Any]:
    import numpy as np
    import torch

    names = {str(at): name for at, name in enumerate(p.classes)}
    channels = [f"channel {at}" for at in range(p.channels)] if isinstance(p.channels, int) else list(p.channels)
    shape = {"spatial_shape": list(p.patch), "dtype": "float32", "is_patch_data": True}
    ranged = [0.0, 1.0] if p.window is not None and p.zscore == "none" else []
    scores = made.file.word("scores") or {}
    return {
        "schema": SCHEMA,
        "version": FIRST,
        "changelog": {FIRST: f"written by kd-search {version('kd-search')}"},
        "monai_version": MONAI,
        "pytorch_version": str(torch.__version__).partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.2.0", "pytorch-ignite": IGNITE},
        "task": "segmentation of volumes",
        "description": f"{made.run.student.name} that segments {', '.join(p.classes)}; a student of kd-search",
        "authors": "not stated",
        "copyright": "not stated; terms of the training data may bind it, see docs/README.md",
        "intended_use": "research; no medical device, validated for no clinical decision",
        "data_type": "nibabel",
        "eval_metrics": {"mean_dice_validation": scores["dice"]} if "dice" in scores else {},
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "n/a",
                    "num_channels": p.channel_count,
                    "value_range": ranged,
                    "channel_def": {str(at): name for at, name in enumerate(channels)},
                    **shape,
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "classes" if p.regions else "labels",
                    "num_channels": len(p.classes),
                    "value_range": [],
                    "channel_def": names,
                    **shape,
                }
            },
        },
    }


def _readme(folder: Path, card: str) -> str:
    """The package's card, and before it how the bundle is run."""
    return (
        f"# {folder.name}\n\nA MONAI bundle, for MONAI {MONAI} or newer with pytorch-ignite and nibabel:\n\n"
        f"```console\n$ {_run(folder)}\n```\n\n"
        "`CASES` holds NIfTI files; of several channels CASE_CHANNEL.nii.gz. Labels are those of the package up to "
        "rounding, but for a rim of half a voxel around what a crop keeps; of regions a file has a channel each. "
        "`models/model.onnx` is the package's network file. What follows is the package's card.\n\n"
        f"{card.partition('## Files')[0]}"
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
