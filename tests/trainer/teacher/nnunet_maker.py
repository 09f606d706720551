"""A raw folder of drawn volumes and a results folder that nnunetv2 makes of it, with random weights; and what its own
predictor says. Run as a program: nnunetv2 reads its folders from the environment as it is imported.

python nnunet_maker.py ROOT
"""

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np

NAME = "Dataset901_Drawn"
CASES = [f"case_{at}" for at in range(5)]
THICK = "thick_0000.nii.gz"
"""An image of slices that are more than three times as thick as wide, which is moved out of the folder."""


def draw(raw: Path) -> None:
    """Balls in noise; the spacing of z differs, so that some cases are resampled."""
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    rng = np.random.default_rng(0)
    for at, name in enumerate(CASES):
        shape = (18 + at, 16, 14)
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        away = ((places - np.array(shape) / 2 - rng.uniform(-2, 2, 3)) ** 2).sum(-1)
        labels = (away < 25).astype(np.uint8) + (away < 8)
        image = rng.normal(-50, 20, shape) + 90 * labels
        affine = np.diag([0.9, 1.0, 1.25 if at % 2 else 1.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), raw / "imagesTr" / f"{name}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), raw / "labelsTr" / f"{name}.nii.gz")
    thick = nibabel.Nifti1Image(image.astype(np.int16), np.diag([1.1, 0.9, 4.0, 1.0]))
    nibabel.save(thick, raw / "imagesTr" / THICK)
    card = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "tumour": 2},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(card))


def plan(raw: Path, preprocessed: Path) -> dict[str, object]:
    """nnU-Net's own planner on a fingerprint of these cases, with a network of 4 channels."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    values = {"mean": 60.0, "median": 55.0, "std": 33.0, "min": -30.0, "max": 190.0}
    fingerprint = {
        "spacings": [[1.25 if at % 2 else 1.0, 1.0, 0.9] for at in range(len(CASES))],
        "shapes_after_crop": [[14, 16, 18 + at] for at in range(len(CASES))],
        "foreground_intensity_properties_per_channel": {
            "0": {**values, "percentile_00_5": -2.0, "percentile_99_5": 165.0}
        },
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    (preprocessed / "dataset.json").write_text((raw / "dataset.json").read_text())
    (preprocessed / "splits_final.json").write_text(json.dumps(generate_crossval_split(CASES, seed=12345, n_splits=5)))
    ExperimentPlanner(901, gpu_memory_target_in_gb=1).plan_experiment()
    plans: dict[str, object] = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    kind = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]  # type: ignore[index]
    stages = kind["n_stages"]
    kind |= {"features_per_stage": [4 * 2**at for at in range(stages)], "n_conv_per_stage": [1] * stages}
    kind["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    return plans


def train(root: Path, plans: dict[str, object], card: dict[str, object]) -> Path:
    """Two folds, saved by nnU-Net's trainer before a first step."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    data = root / "nnUNet_preprocessed" / NAME / "nnUNetPlans_3d_fullres"
    data.mkdir()
    (data / "case_0.b2nd").touch()  # what its trainer tells the kind of its files from
    for fold in (0, 1):
        torch.manual_seed(fold)
        trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", fold, card, torch.device("cpu"))
        trainer.initialize()
        trainer.inference_allowed_mirroring_axes = (0, 1, 2)
        trainer.logger.log("train_losses", np.float32(0.5), 0)
        trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    folder = Path(trainer.output_folder_base)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


def predict(folder: Path, raw: Path, root: Path) -> None:
    """Labels of whole cases and logits of a patch, as arrays by what was asked; x, y, z."""
    import nnunetv2.inference.predict_from_raw_data as module
    import torch
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    answers: dict[str, np.ndarray] = {}

    class Single:
        """torch, whose half precision is single: what its sums would be without rounding."""

        half = torch.float32

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

    wishes = (
        ("half", (0,), False),
        ("single", (0,), False),
        ("single-both", (0, 1), False),
        ("single-flips", (0,), True),
    )
    for wish, folds, mirrored in wishes:
        module.torch = torch if wish == "half" else Single()
        predictor = module.nnUNetPredictor(
            use_mirroring=mirrored, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(folder), folds, "checkpoint_final.pth")
        for case in ("case_0", "case_1", "thick")[: 1 if wish == "half" else 3]:
            image, properties = SimpleITKIO().read_images([str(raw / "imagesTr" / f"{case}_0000.nii.gz")])
            labels = predictor.predict_single_npy_array(image, properties, None, None, False)
            answers[f"{wish}-{case}"] = labels.transpose(2, 1, 0)
        if wish == "half":
            patch = torch.randn(1, 1, *predictor.configuration_manager.patch_size, generator=torch.manual_seed(0))
            with torch.no_grad():
                logits = predictor.network.eval()(patch)
            answers["patch"] = patch.numpy().transpose(0, 1, 4, 3, 2)
            answers["logits"] = logits.numpy().transpose(0, 1, 4, 3, 2)
    (raw / "imagesTr" / THICK).rename(root / THICK)
    np.savez(root / "answers.npz", **answers)  # type: ignore[arg-type]


def main(root: Path) -> None:
    """All of it below a new folder."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(root / f"nnUNet_{name}")
        (root / f"nnUNet_{name}").mkdir(parents=True)
    raw, preprocessed = root / "nnUNet_raw" / NAME, root / "nnUNet_preprocessed" / NAME
    preprocessed.mkdir()
    draw(raw)
    plans = plan(raw, preprocessed)
    folder = train(root, plans, json.loads((raw / "dataset.json").read_text()))
    predict(folder, raw, root)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
