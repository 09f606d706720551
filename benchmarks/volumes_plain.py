"""The search of `benchmarks.volumes` as MONAI's tutorials write it: one trial at a time, each with its own teacher.

    python -m benchmarks.volumes_plain --folder DATA --patch 32 --trials 2 --epochs 2 --account FILE

CacheDataset with its dictionary transforms, once for all trials and before the clock starts; four patches of one case a
batch; MONAI's networks, losses, sliding window and Dice. The steps are those of the product's arm: as many patches, the
same sizes, the same losses, optimizer, schedule and validation windows, a checkpoint and a report an epoch.
"""

import argparse
import csv
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.clock import Account
from benchmarks.volumes_work import CLASSES, OVERLAP, PATCHES, STUDENT, TEACHER, WINDOWS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.data import CacheDataset, DataLoader, decollate_batch, list_data_collate
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.metrics import DiceMetric
    from monai.networks.nets import UNet
    from monai.transforms import (
        AsDiscrete,
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        RandCropByPosNegLabeld,
        RandFlipd,
        RandRotate90d,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )


def cases(folder: Path, part: str) -> list[dict[str, str]]:
    """The rows of a part of the split file."""
    with (folder / "split.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == part]
    return [{"image": str(folder / row["image"]), "label": str(folder / row["mask"])} for row in rows]


def transforms(patch: int, *, train: bool) -> Any:
    """What ACF-BCKD does to CT: crops 1:1 around foreground and background, flips, quarter turns, intensities."""
    keys = ["image", "label"]
    fixed = [
        LoadImaged(keys=keys),
        EnsureChannelFirstd(keys=keys),
        Orientationd(keys=keys, axcodes="RAS", labels=None),
        NormalizeIntensityd(keys="image", channel_wise=True),
    ]
    crop = RandCropByPosNegLabeld(
        keys=keys, label_key="label", spatial_size=(patch,) * 3, pos=1, neg=1, num_samples=PATCHES
    )
    changes = [RandFlipd(keys=keys, prob=0.2, spatial_axis=axis) for axis in range(3)]
    changes += [RandRotate90d(keys=keys, prob=0.2, max_k=3)]
    changes += [RandScaleIntensityd(keys="image", factors=0.1, prob=0.1)]
    changes += [RandShiftIntensityd(keys="image", offsets=0.1, prob=0.1)]
    return Compose([*fixed, crop, *changes] if train else fixed)


def network(which: tuple[str, int]) -> nn.Module:
    """MONAI's form of a network of the product."""
    name, width = which
    units = 2 if name == "residual-unet-3d" else 0
    channels = tuple(width * 2**level for level in range(4))
    built: nn.Module = UNet(3, 1, len(CLASSES), channels=channels, strides=(2, 2, 2), num_res_units=units)
    return built


class Script:
    """The process of the search; `objective` is what Optuna calls."""

    def __init__(self, folder: Path, patch: int, epochs: int, work: Path) -> None:
        self.patch, self.epochs, self.work = patch, epochs, work
        self.account = Account()
        self.files = work / "teacher.pth"
        torch.manual_seed(0)
        torch.save(network(TEACHER).state_dict(), self.files)
        cached = [
            CacheDataset(cases(folder, part), transforms(patch, train=part == "train"), progress=False)
            for part in ("train", "validation")
        ]
        self.train = DataLoader(cached[0], batch_size=1, shuffle=True, num_workers=0, collate_fn=list_data_collate)
        self.validation = DataLoader(cached[1], batch_size=1, num_workers=0)

    def objective(self, trial: optuna.Trial) -> float:
        """One trial, from its teacher to its best weights."""
        temperature = trial.suggest_float("temperature", 1.0, 8.0, log=True)
        weight = trial.suggest_float("weight", 0.1, 10.0, log=True)
        lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        teacher = network(TEACHER).requires_grad_(False).eval()
        teacher.load_state_dict(torch.load(self.files))
        student, loss_of = network(STUDENT), DiceCELoss(to_onehot_y=True, softmax=True)
        optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=lr, epochs=self.epochs, steps_per_epoch=len(self.train), pct_start=1 / self.epochs
        )
        best = -1.0
        for epoch in range(1, self.epochs + 1):
            student.train()
            for batch in self.train:
                images, target = batch["image"], batch["label"]
                with torch.no_grad():
                    soft = teacher(images)
                logits = student(images)
                loss = loss_of(logits, target) + weight * softened(logits, soft, temperature)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                self.account.counts["steps"] += 1
            dice = self.validate(student)
            torch.save({"model": student.state_dict(), "optimizer": optimizer.state_dict()}, self.work / "last.pth")
            if dice > best:
                torch.save(student.state_dict(), self.work / "best.pth")
            best = max(best, dice)
            trial.report(dice, epoch)
            self.account.epoch_over(epoch, 1)
            self.account.counts["epochs"] += 1
        self.account.counts["trials"] += 1
        return best

    @torch.no_grad()
    def validate(self, student: nn.Module) -> float:
        """Mean Dice of the objects over cases."""
        student.eval()
        metric = DiceMetric(include_background=False)
        predicted, truth = AsDiscrete(argmax=True, to_onehot=len(CLASSES)), AsDiscrete(to_onehot=len(CLASSES))
        for batch in self.validation:
            logits = sliding_window_inference(batch["image"], (self.patch,) * 3, WINDOWS, student, overlap=OVERLAP)
            metric(
                [predicted(one) for one in decollate_batch(logits)],
                [truth(one) for one in decollate_batch(batch["label"])],
            )
            self.account.counts["validation_images"] += batch["label"].shape[-1]
        return float(metric.aggregate())


def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The KL divergence of the softened classes times T^2, mean over voxels."""
    soft = [functional.log_softmax(logits / temperature, dim=1) for logits in (student, teacher)]
    kl = functional.kl_div(soft[0], soft[1], reduction="none", log_target=True).sum(1)
    return temperature**2 * kl.mean()


def main() -> int:
    """Run the search and write its account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="cases and the teacher's file")
    parser.add_argument("--patch", type=int, required=True, help="voxels a side")
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--account", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="plain-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = Script(args.folder, args.patch, args.epochs, Path(name))
        script.account.begin()
        study = optuna.create_study(
            storage=f"sqlite:///{name}/study.db",
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=args.seed),
            pruner=optuna.pruners.NopPruner(),
        )
        study.optimize(script.objective, n_trials=args.trials)
        script.account.write(args.account)
    return 0


if __name__ == "__main__":
    sys.exit(main())
