"""One complete training run as a value, with everything that it names; free of torch."""

from trainer.config.classes import MOST_CLASSES, MOST_FILES, ClassConfig, ClassValue, Intensity, RegionConfig
from trainer.config.optim import MOST_EPOCHS, Constant, Cosine, OneCycle, OptimConfig, Plateau, Poly, ScheduleConfig
from trainer.config.pictures import LARGEST_SEED, BlobsData, CellReader, PictureData, Pictures, PolypData
from trainer.config.run import DataConfig, Precision, Replay, RunConfig, ValidateConfig
from trainer.config.volumes import (
    ChannelScheme,
    GridRule,
    Orientation,
    PatchChanges,
    Tiling,
    VolumeData,
    VolumeRecipe,
    Weights,
    ZScore,
)

__all__ = [
    "LARGEST_SEED",
    "MOST_CLASSES",
    "MOST_EPOCHS",
    "MOST_FILES",
    "BlobsData",
    "CellReader",
    "ChannelScheme",
    "ClassConfig",
    "ClassValue",
    "Constant",
    "Cosine",
    "DataConfig",
    "GridRule",
    "Intensity",
    "OneCycle",
    "OptimConfig",
    "Orientation",
    "PatchChanges",
    "PictureData",
    "Pictures",
    "Plateau",
    "Poly",
    "PolypData",
    "Precision",
    "RegionConfig",
    "Replay",
    "RunConfig",
    "ScheduleConfig",
    "Tiling",
    "ValidateConfig",
    "VolumeData",
    "VolumeRecipe",
    "Weights",
    "ZScore",
]
