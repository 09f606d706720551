"""The search that tutorials show: Optuna's loop around a DistributedDataParallel training script with distillation.

    python -m benchmarks.plain --folder PICTURES --workload r101-16 --trials 2 --epochs 2 --account FILE

Each trial builds and loads its teacher, its student and its loaders; workers are started anew every epoch and decode
every picture every time; validation takes one image at a time, and torchmetrics scores it; each step prints its loss.
`--tuned` is what a careful user changes without another design: workers that live as long as their trial, validation
in batches, nothing printed in a step. Networks, losses, augmentation, optimizer, schedule and scores are those of the
product, so that both do the same work; everything around them is written anew.
"""

import argparse
import csv
import os
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import optuna
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import models
from benchmarks.clock import Account
from benchmarks.workloads import BATCH, CHANNELS, CLASSES, SIZE, WORKLOADS, Workload
from models.config import SmpTeacher, UNetNetwork
from models.torchvision_guard import make_importable

make_importable()  # torchmetrics imports torchvision

import segmentation_models_pytorch  # noqa: E402, F401 - imports are not counted
from torchmetrics.segmentation import DiceScore  # noqa: E402 - after the line above

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)
IGNORED = 255
WORKERS = 2


def pipeline() -> albumentations.Compose:
    """The augmentation of the product's preset `standard`, and normalisation."""
    return albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=0.5),
            albumentations.VerticalFlip(p=0.5),
            albumentations.Transpose(p=0.5),
            albumentations.Affine(
                scale=(0.75, 1.25),
                translate_percent=(-0.1, 0.1),
                rotate=(-20, 20),
                shear=(-4, 4),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_CONSTANT,
                fill=0,
                fill_mask=IGNORED,
                keep_ratio=True,
                p=1.0,
            ),
            albumentations.ColorJitter(
                brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.8
            ),
        ]
    )


class Polyps(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Pictures of one part of the split file: image, mask brought to SIZE, mask as it is."""

    def __init__(self, folder: Path, part: str, *, augment: bool) -> None:
        with (folder / "split.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == part]
        self.files = sorted((folder / row["image"], folder / row["mask"]) for row in rows)
        self.augment = pipeline() if augment else None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image_file, mask_file = self.files[index]
        image = np.asarray(Image.open(image_file).convert("RGB"))
        native = (np.asarray(Image.open(mask_file).convert("L")) > 127).astype(np.uint8)
        image, mask = letterbox(image, native)
        if self.augment is not None:
            out = self.augment(image=image, mask=mask)
            image, mask = out["image"], out["mask"]
        scaled = (image.astype(np.float32) / 255 - MEAN) / STD
        return (
            torch.from_numpy(scaled.transpose(2, 0, 1)).contiguous(),
            torch.from_numpy(mask).long(),
            torch.from_numpy(native),
        )


def inner(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a picture of height x width in the square of SIZE."""
    scale = SIZE / max(height, width)
    h, w = round(height * scale), round(width * scale)
    return (SIZE - h) // 2, (SIZE - w) // 2, h, w


def letterbox(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both brought into the square; what is added is black and ignored."""
    top, left, h, w = inner(*mask.shape)
    square = np.zeros((SIZE, SIZE, 3), np.uint8)
    labels = np.full((SIZE, SIZE), IGNORED, np.uint8)
    square[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    labels[top : top + h, left : left + w] = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
    return square, labels


def listed(samples: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Validation batches: native masks have sizes of their own."""
    return torch.stack([image for image, _, _ in samples]), [native for _, _, native in samples]


def training(samples: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Training batches: images and masks of SIZE."""
    return torch.stack([image for image, _, _ in samples]), torch.stack([mask for _, mask, _ in samples])


def distillation_loss(student: Tensor, teacher: Tensor, target: Tensor, weight: float, temperature: float) -> Tensor:
    """Cross-entropy, soft Dice of each image, and weight times the KL divergence of the softened classes times T^2."""
    valid = target != IGNORED
    ce = functional.cross_entropy(student, target, ignore_index=IGNORED)
    truth = functional.one_hot(torch.where(valid, target, 0), CLASSES).permute(0, 3, 1, 2) * valid[:, None]
    probability = student.softmax(1) * valid[:, None]
    common, both = (probability * truth).sum((2, 3)), probability.sum((2, 3)) + truth.sum((2, 3))
    dice = 1 - ((2 * common + 1e-5) / (both + 1e-5)).mean()
    soft = [functional.log_softmax(logits / temperature, dim=1) for logits in (student, teacher)]
    kl = functional.kl_div(soft[0], soft[1], reduction="none", log_target=True).sum(1)
    return ce + dice + weight * temperature**2 * (kl * valid).sum() / valid.sum()


def autocast(precision: str) -> AbstractContextManager[object]:
    """Mixed precision where it is asked for."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


class Script:
    """One process of the search; `objective` is what Optuna calls."""

    def __init__(
        self, folder: Path, workload: Workload, epochs: int, precision: str, *, tuned: bool, work: Path
    ) -> None:
        self.folder, self.workload, self.epochs, self.precision = folder, workload, epochs, precision
        self.tuned, self.work = tuned, work
        self.account = Account()

    def teacher(self) -> nn.Module:
        """Built and loaded anew."""
        config = SmpTeacher(name="smp-unet", encoder=self.workload.encoder)
        network = models.build(config, in_channels=CHANNELS, classes=CLASSES)
        network.load_state_dict(load_file(self.folder / f"{self.workload.encoder}.safetensors"))
        return network.requires_grad_(False).eval()

    def loaders(self) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Training and validation."""
        train = Polyps(self.folder, "train", augment=True)
        validation = Polyps(self.folder, "validation", augment=False)
        common: dict[str, Any] = {"num_workers": WORKERS, "persistent_workers": self.tuned}
        return (
            DataLoader(train, BATCH, shuffle=True, drop_last=True, collate_fn=training, **common),
            DataLoader(validation, 16 if self.tuned else 1, collate_fn=listed, **common),
        )

    def objective(self, trial: optuna.Trial) -> float:
        """One trial, from its teacher to its best weights."""
        temperature = trial.suggest_float("temperature", 1.0, 8.0, log=True)
        weight = trial.suggest_float("weight", 0.1, 10.0, log=True)
        lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        teacher = self.teacher()
        config = UNetNetwork(name="unet", width=self.workload.width)
        student = DistributedDataParallel(models.build(config, in_channels=CHANNELS, classes=CLASSES))
        train, validation = self.loaders()
        optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=lr, epochs=self.epochs, steps_per_epoch=len(train), pct_start=1 / self.epochs
        )
        best = -1.0
        for epoch in range(1, self.epochs + 1):
            student.train()  # type: ignore[no-untyped-call]
            for images, target in train:
                with torch.no_grad(), autocast(self.precision):
                    soft = teacher(images).logits.float()
                with autocast(self.precision):
                    logits = student(images).logits.float()
                loss = distillation_loss(logits, soft, target, weight, temperature)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                self.account.counts["steps"] += 1
                if not self.tuned:
                    print(f"trial {trial.number} epoch {epoch} loss {loss.item():.4f}")
            dice = self.validate(student.module, validation)
            best = self.keep(trial, student.module, optimizer, epoch, dice, best)
            self.account.epoch_over(epoch, 1)
            self.account.counts["epochs"] += 1
        self.account.counts["trials"] += 1
        return best

    def keep(
        self,
        trial: optuna.Trial,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        epoch: int,
        dice: float,
        best: float,
    ) -> float:
        """Checkpoints and the report; returns the best Dice so far."""
        state = {"model": student.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(state, self.work / f"last-{trial.number}.pth")
        if dice > best:
            torch.save(student.state_dict(), self.work / f"best-{trial.number}.pth")
        trial.report(dice, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
        return max(dice, best)

    @torch.no_grad()
    def validate(self, student: nn.Module, validation: DataLoader[Any]) -> float:
        """Mean Dice of the foreground over images, at the size of each image's mask."""
        student.eval()
        metric = DiceScore(num_classes=CLASSES, include_background=False, input_format="index")
        for images, natives in validation:
            with autocast(self.precision):
                logits = student(images).logits
            for one, native in zip(logits.float(), natives, strict=True):
                metric.update(predicted(one, native), native[None].long())
                self.account.counts["validation_images"] += 1
        return float(metric.compute())


def predicted(logits: Tensor, native: Tensor) -> Tensor:
    """(1, height, width) labels at the size of the native mask from logits (classes, SIZE, SIZE)."""
    top, left, h, w = inner(*native.shape)
    cut = logits[None, :, top : top + h, left : left + w]
    return functional.interpolate(cut, size=tuple(native.shape), mode="bilinear", align_corners=False).argmax(1)


def scored(student: nn.Module, folder: Path) -> float:
    """The Dice of a network on the validation part, one image at a time, for the gate."""
    script = Script(folder, WORKLOADS["r101-8"], 1, "fp32", tuned=False, work=folder)
    return script.validate(student, DataLoader(Polyps(folder, "validation", augment=False), 1, collate_fn=listed))


def main() -> int:
    """Run the search and write its account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="pictures and the teacher's file")
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--account", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    cv2.setNumThreads(0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="plain-") as name:
        work = Path(name)
        script = Script(args.folder, WORKLOADS[args.workload], args.epochs, args.precision, tuned=args.tuned, work=work)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{work}/meeting", rank=0, world_size=1)
        script.account.begin()
        study = optuna.create_study(
            storage=f"sqlite:///{work}/study.db",
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=args.seed),
            pruner=optuna.pruners.NopPruner(),
        )
        study.optimize(script.objective, n_trials=args.trials)
        script.account.write(args.account)
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
