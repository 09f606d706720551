"""What a package does to a case, in MONAI's transforms: `configs/inference.json` of a bundle.

Preparation and windows are the same, to rounding. Logits go back to the file's grid by MONAI's `Invertd`, and only then
become labels. They are brought so far before that 0 is the edge of a mask: what a crop cut away comes back as 0.
"""

import math
from typing import Any

from trainer.errors import UserError
from trainer.package.volumes import VolumePreprocessing

Config = dict[str, Any]
WEIGHTS = "models/model.pt"
NIFTI = ".nii.gz"
RIGHT_ANGLES = (
    "$lambda x: setattr(x, 'affine', torch.cat([torch.as_tensor(monai.data.utils.zoom_affine(x.affine, "
    "monai.data.utils.affine_to_spacing(x.affine), diagonal=False))[:, :3], x.affine[:, 3:]], 1)) or x"
)
"""Brings an affine to right angles as exact as float64 has them. Headers keep it in single precision, and MONAI's
Spacing (1.6.1) then takes a turned case for one that has no first voxel, and moves its grid by half a voxel."""


def refuse_other_ways(p: VolumePreprocessing) -> None:
    """Raise UserError for what MONAI has no transform for."""
    for stated, what in (
        (bool(p.schemes), "prepared in nnU-Net's steps"),
        (p.tiling != "clamped", f'tiling = "{p.tiling}"'),
        (p.weights not in ("constant", "gaussian"), f'weights = "{p.weights}"'),
        (p.spacing is not None and p.grid != "first-centre", f'grid = "{p.grid}"'),
    ):
        if stated:
            raise UserError(f"the package says {what}, which MONAI's transforms do not do; use the package itself")


def inference_config(p: VolumePreprocessing, network: Config) -> Config:
    """The whole document. Cases are the files of `dataset_dir`; label files go to `output_dir`."""
    return {
        "imports": ["$import glob", "$import monai", "$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": "$@bundle_root + '/cases'",
        "output_dir": "$@bundle_root + '/labels'",
        "datalist": _cases(p),
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preparation(p)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': files} for files in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(p.patch),
            "sw_batch_size": 1,
            "overlap": p.overlap,
            "mode": p.weights,
        },
        "postprocessing": {"_target_": "Compose", "transforms": _labels(p)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/{WEIGHTS}'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _cases(p: VolumePreprocessing) -> str:
    """The files of each case, of named channels a list each."""
    if isinstance(p.channels, int):
        return f"$sorted(glob.glob(@dataset_dir + '/*{NIFTI}'))"
    first = f"{p.channels[0]}{NIFTI}"
    files = f"[name[:-{len(first)}] + channel + '{NIFTI}' for channel in {list(p.channels)}]"
    return f"$[{files} for name in sorted(glob.glob(@dataset_dir + '/*[_-]{first}'))]"


def _preparation(p: VolumePreprocessing) -> list[Config]:
    steps: list[Config] = [_step("LoadImaged"), _step("EnsureChannelFirstd")]
    if p.orientation != "stored":
        steps.append(_step("Orientationd", axcodes=p.orientation, labels=None))
    if p.spacing is not None:
        steps.append(_step("Lambdad", func=RIGHT_ANGLES))
        steps.append(_step("Spacingd", pixdim=list(p.spacing), mode="bilinear"))
    if p.window is not None:
        low, high = p.window
        steps.append(_step("ScaleIntensityRanged", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True))
    if p.crop is not None or p.multiple != (1, 1, 1):
        chosen = {"positive": "$lambda x: x > 0", "nonzero": "$lambda x: x != 0", None: "$lambda x: x == x"}[p.crop]
        steps.append(
            _step(
                "CropForegroundd",
                source_key="image",
                select_fn=chosen,
                margin=p.margin,
                allow_smaller=True,
                k_divisible=list(p.multiple),
            )
        )
    if p.zscore != "none":
        steps.append(_step("NormalizeIntensityd", nonzero=p.zscore != "volume", channel_wise=True))
    if p.storage == "float16":
        steps.append(_step("Lambdad", func="$lambda x: x.half().float()"))
    return steps


def _labels(p: VolumePreprocessing) -> list[Config]:
    """From logits to what a label file holds."""
    back = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
    }
    edges = [math.log(each / (1 - each)) for each in p.least]
    steps: list[Config]
    if p.regions:
        edges = edges if len(edges) > 1 else edges * len(p.classes)
        less = f"$lambda x: x - torch.tensor({edges}, device=x.device).reshape(-1, 1, 1, 1)"
        steps = [_step("Lambdad", "pred", func=less), back, _step("Lambdad", "pred", func="$lambda x: x > 0")]
    elif edges:
        less = f"$lambda x: x[1:2] - x[:1] - {edges[0]!r}"
        steps = [_step("Lambdad", "pred", func=less), back, _step("Lambdad", "pred", func="$lambda x: x > 0")]
    else:
        steps = [back, _step("AsDiscreted", "pred", argmax=True)]
    if p.values is not None and p.values != tuple(range(len(p.values))):
        labels = list(range(len(p.values)))
        steps.append(_step("MapLabelValued", "pred", orig_labels=labels, target_labels=list(p.values)))
    saved = _step("SaveImaged", "pred", output_dir="@output_dir", output_postfix="", output_dtype="$torch.uint8")
    return [*steps, saved | {"separate_folder": False, "resample": False}]


def _step(target: str, keys: str = "image", **options: object) -> Config:
    return {"_target_": target, "keys": keys, **options}
