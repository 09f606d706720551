"""A results folder of nnU-Net v2 read without running any of its code, and written as a teacher's folder.

plans.json, dataset.json and the fold_K/checkpoint_final.pth that nnUNetv2_train leaves are read; of a checkpoint torch
itself reads tensors, plain values and numpy's numbers, nothing else. Tensors that share memory, of which nnU-Net's
checkpoints list those of the encoder four times and those of the decoder twice, are written once.
"""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from trainer import checkpoint
from trainer.config.validation import explain
from trainer.errors import CheckpointError, counted, received
from trainer.teacher import nnunet
from trainer.teacher.nnunet import DESCRIPTION, FORMAT, Architecture, Description, Fold

PLANS, DATASET, SPLITS = "plans.json", "dataset.json", "splits_final.json"
RESULTS, PREPROCESSED = "nnUNet_results", "nnUNet_preprocessed"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
"""What nnU-Net leaves, the one that its predictor takes first."""
_FOLD = re.compile(r"fold_(\d+|all)")
_GLOBAL = re.compile(r"GLOBAL ([A-Za-z0-9_.]+)")
_RESAMPLING = {"data": (3, False), "probabilities": (1, False)}
"""Order, and whether it is of labels, that recipe "nnunet" follows."""
_NUMPY_1 = "numpy.core.multiarray.scalar"

Table = Mapping[str, Any]


def read(
    folder: Path, *, folds: tuple[str, ...] = (), name: str | None = None, splits: Path | None = None
) -> "Results":
    """The results folder of one configuration. folds: those that are taken; none: all that are there. name: of the
    checkpoints. splits: splits_final.json, where it is not at nnU-Net's place. Raises CheckpointError in one line."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a results folder, .../Trainer__Plans__configuration")
    plans, dataset = _json(folder / PLANS), _json(folder / DATASET)
    there = {match[1]: path for path in sorted(folder.iterdir()) if (match := _FOLD.fullmatch(path.name))}
    for fold in folds:
        if fold not in there:
            raise CheckpointError(f"{folder}: no fold_{fold}; there are {', '.join(there) or 'none'}")
    taken = {fold: there[fold] for fold in (folds or tuple(there))}
    if not taken:
        raise CheckpointError(
            f"{folder}: holds no fold_0, fold_1, ... with a checkpoint; train one, or give its folder"
        )
    loaded = {fold: _checkpoint(path, name) for fold, path in taken.items()}
    configurations = {str(file["init_args"]["configuration"]) for file in loaded.values()}
    trainers = {str(file["trainer_name"]) for file in loaded.values()}
    mirroring = {tuple(file["inference_allowed_mirroring_axes"] or ()) for file in loaded.values()}
    if max(len(configurations), len(trainers), len(mirroring)) > 1:
        raise CheckpointError(f"{folder}: its folds are of several trainings ({', '.join(configurations | trainers)})")
    parts = [] if set(taken) == {"all"} else _splits(folder, splits)
    states = {fold: _state(file, taken[fold]) for fold, file in loaded.items()}
    entries = [
        Fold(
            fold=fold,
            file=f"fold_{fold}.safetensors",
            sha256="",
            epoch=int(file.get("current_epoch", 0)),
            **_part(parts, fold, folder),
        )
        for fold, file in loaded.items()
    ]
    description = _description(
        folder, plans, dataset, configurations.pop(), trainers.pop(), mirroring.pop(), entries, _shared(states, folder)
    )
    return Results(folder, description, states)


class Results:
    """A results folder as it was read."""

    def __init__(self, folder: Path, description: Description, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.folder = folder
        self.description = description
        self._states = {
            fold: {name: tensor for name, tensor in state.items() if name not in description.shared}
            for fold, state in states.items()
        }

    @property
    def tensors(self) -> int:
        """Of one fold, without those that are there again."""
        return len(next(iter(self._states.values())))

    @property
    def numbers(self) -> int:
        """Parameters of one fold."""
        return sum(tensor.numel() for tensor in next(iter(self._states.values())).values())

    def write(self, folder: Path) -> Description:
        """Weights and description, each network built and filled once before. Raises CheckpointError, OSError."""
        folds = []
        for fold in self.description.folds:
            nnunet.network(self.description, self._states[fold.fold], f"{self.folder}/fold_{fold.fold}")
        for fold in self.description.folds:
            saved = checkpoint.export(folder / fold.file, self._states[fold.fold], {"fold": fold.fold})
            folds.append(fold.model_copy(update={"sha256": saved.sha256}))
        whole = self.description.model_copy(update={"folds": tuple(folds)})
        checkpoint.write(folder / DESCRIPTION, nnunet.written(whole).encode())
        return whole


def _json(path: Path) -> Table:
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); give a results folder, .../Trainer__Plans__configuration"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is no JSON ({error}); take it from the machine that trained") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: holds a {type(table).__name__}, expected a table")
    return table


def _checkpoint(fold: Path, name: str | None) -> Table:
    """What nnU-Net saved of a fold. Raises CheckpointError for what is more than tensors, plain values and numbers."""
    names = (name,) if name else CHECKPOINTS
    path = next((fold / each for each in names if (fold / each).is_file()), None)
    if path is None:
        raise CheckpointError(f"{fold}: holds no {' or '.join(names)}; train it to the end, or leave the fold out")
    try:
        with torch.serialization.safe_globals(_allowed()):
            held = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        # A damaged or hostile file fails in any way; the reader's own message spans many lines.
        match = _GLOBAL.search(str(error))
        why = f"it names {match[1]}, which is no weight" if match else f"it is cut short or damaged ({_kind(error)})"
        raise CheckpointError(f"{path}: is not read: {why}; take the file that nnUNetv2_train wrote") from error
    wanted = {"network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes"}
    lacking = sorted(wanted - set(held)) if isinstance(held, dict) else sorted(wanted)
    if lacking:
        raise CheckpointError(f"{path}: has no {lacking[0]}; it is no checkpoint of nnU-Net v2")
    if not isinstance(held["init_args"], dict) or "configuration" not in held["init_args"]:
        raise CheckpointError(f"{path}: its init_args name no configuration; it is no checkpoint of nnU-Net v2")
    return dict(held)


def _allowed() -> list[Any]:
    """What checkpoints hold beside tensors: numpy's numbers, of numpy 2 and of numpy 1."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]  # the name that pickles have
    return [scalar, (scalar, _NUMPY_1), np.dtype, type(np.dtype(np.float32)), type(np.dtype(np.float64))]


def _kind(error: Exception) -> str:
    return type(error).__name__


def _state(file: Table, fold: Path) -> Mapping[str, Tensor]:
    state = file["network_weights"]
    if not isinstance(state, dict) or not state or not all(isinstance(each, Tensor) for each in state.values()):
        raise CheckpointError(f"{fold}: network_weights is no state dict; it is no checkpoint of nnU-Net v2")
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{fold}: {name} holds numbers that are not finite; leave the fold out")
    return state


def _shared(states: Mapping[str, Mapping[str, Tensor]], folder: Path) -> dict[str, str]:
    """Names of tensors that lie in the memory of an earlier one, and that one's name. Raises CheckpointError."""
    tables = []
    for state in states.values():
        first: dict[tuple[object, ...], str] = {}
        table = {}
        for name, tensor in state.items():
            place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
            kept = first.setdefault(place, name)
            if kept != name and tensor.numel():
                table[name] = kept
        tables.append((table, {name: tuple(tensor.shape) for name, tensor in state.items()}))
    if any(other != tables[0] for other in tables[1:]):
        raise CheckpointError(f"{folder}: its folds hold different networks; convert those of one training")
    return tables[0][0]


def _splits(folder: Path, given: Path | None) -> list[Any]:
    """splits_final.json. Raises CheckpointError."""
    usual = folder.parent.parent.parent / PREPROCESSED / folder.parent.name / SPLITS
    path = given or next((each for each in (folder / SPLITS, usual) if each.is_file()), None)
    if path is None:
        raise CheckpointError(f"{usual}: no such file, and it says who trained and who validated; give --splits FILE")
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    whole = isinstance(table, list) and all(
        isinstance(each, dict) and {"train", "val"} <= each.keys() for each in table
    )
    if not whole:
        raise CheckpointError(f"{path}: expected a list of folds with train and val")
    return list(table)


def _part(parts: list[Any], fold: str, folder: Path) -> dict[str, tuple[str, ...]]:
    if fold == "all" or not parts:
        return {}
    if int(fold) >= len(parts):
        raise CheckpointError(
            f"{folder}: fold_{fold}: {SPLITS} has {counted(len(parts), 'fold')}; give the one it was trained with"
        )
    return {part: tuple(str(case) for case in parts[int(fold)][part]) for part in ("train", "val")}


def _description(
    folder: Path,
    plans: Table,
    dataset: Table,
    configuration: str,
    trainer: str,
    mirroring: tuple[int, ...],
    folds: list[Fold],
    shared: dict[str, str],
) -> Description:
    """All of it in one value. Raises CheckpointError for what is missing, and for what nnU-Net can and we cannot."""
    where = folder / PLANS
    try:
        settings = _configuration(plans["configurations"], configuration, where)
        _refuse_other_steps(settings, configuration, where)
        kind = settings["architecture"]
        names = dataset.get("channel_names", dataset.get("modality"))
        if not isinstance(names, dict):
            raise CheckpointError(f"{folder / DATASET}: channel_names = {received(names)}: expected a table")
        classes, regions, ignore = _labels(dataset, folder / DATASET)
        return Description(
            format=FORMAT,
            dataset=str(plans["dataset_name"]),
            trainer=trainer,
            configuration=configuration,
            architecture=Architecture(
                network=kind["network_class_name"],
                arguments=kind["arch_kwargs"],
                imports=tuple(kind["_kw_requires_import"]),
            ),
            patch=tuple(settings["patch_size"]),
            spacing=tuple(settings["spacing"]),
            transpose=tuple(plans["transpose_forward"]),
            schemes=_schemes(settings, plans),
            channels=tuple(str(name) for name in names.values()),
            classes=classes,
            regions=regions,
            ignore=ignore,
            mirroring=mirroring,
            folds=tuple(folds),
            shared=shared,
        )
    except ValidationError as error:
        raise CheckpointError(explain(error, str(where))) from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{where}: is no plans file of nnU-Net v2.4 or newer ({type(error).__name__}: {error}); plan and train anew"
        ) from error


def _configuration(known: Table, name: str, where: Path, depth: int = 0) -> dict[str, Any]:
    """The settings of a configuration, over those that it inherits. Raises CheckpointError."""
    if name not in known or depth > len(known):
        raise CheckpointError(f"{where}: configurations: no {name!r}; known: {', '.join(known)}")
    own = dict(known[name])
    above = own.pop("inherits_from", None)
    return own if above is None else {**_configuration(known, above, where, depth + 1), **own}


def _refuse_other_steps(settings: Table, configuration: str, where: Path) -> None:
    """Raise CheckpointError for a configuration whose cases are prepared in other steps than recipe "nnunet" takes."""
    if len(settings["patch_size"]) != 3:
        raise CheckpointError(f"{where}: {configuration} is of slices; convert a configuration of volumes (3d_fullres)")
    if settings.get("previous_stage"):
        raise CheckpointError(f"{where}: {configuration} needs the labels of another stage; convert 3d_fullres")
    if settings["preprocessor_name"] != "DefaultPreprocessor":
        raise CheckpointError(
            f"{where}: preprocessor {settings['preprocessor_name']}: only DefaultPreprocessor is known"
        )
    for of, (order, is_seg) in _RESAMPLING.items():
        how = settings[f"resampling_fn_{of}_kwargs"]
        usual = settings[f"resampling_fn_{of}"] == "resample_data_or_seg_to_shape"
        expected = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
        if not usual or dict(how) != expected:
            raise CheckpointError(
                f"{where}: resampling_fn_{of} = {settings[f'resampling_fn_{of}']} {json.dumps(how)}: only "
                f"resample_data_or_seg_to_shape {json.dumps(expected)} is known"
            )


def _schemes(settings: Table, plans: Table) -> tuple[Any, ...]:
    """A table for each channel that `ChannelScheme` takes."""
    intensities = plans["foreground_intensity_properties_per_channel"]
    schemes = []
    pairs = zip(settings["normalization_schemes"], settings["use_mask_for_norm"], strict=True)
    for at, (scheme, masked) in enumerate(pairs):
        table: dict[str, Any] = {"scheme": scheme}
        if scheme == "ZScoreNormalization":
            table["masked"] = bool(masked)
        if scheme == "CTNormalization":
            own = intensities[str(at)]
            table |= {
                "low": own["percentile_00_5"],
                "high": own["percentile_99_5"],
                "mean": own["mean"],
                "std": own["std"],
            }
        schemes.append(table)
    return tuple(schemes)


def _labels(dataset: Table, where: Path) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], bool, int | None]:
    """The outputs with their values, whether they are regions, and what is ignored. Raises CheckpointError."""
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise CheckpointError(f"{where}: labels = {received(labels)}: expected names with their values")
    ignore = labels.get("ignore")
    named = {name: value for name, value in labels.items() if name != "ignore"}
    if any(isinstance(value, list) for value in named.values()):
        inside = {name: value if isinstance(value, list) else [value] for name, value in named.items()}
        return tuple((name, tuple(each)) for name, each in inside.items() if set(each) != {0}), True, ignore
    ordered = sorted((value, name) for name, value in named.items())
    if [value for value, _ in ordered] != list(range(len(ordered))):
        raise CheckpointError(
            f"{where}: labels have the values {', '.join(str(value) for value, _ in ordered)}: expected 0, 1, 2, ..."
        )
    return tuple((name, (value,)) for value, name in ordered), False, ignore
