"""Files that the dashboard shows: pictures of trials and figures of studies, in one folder that it serves."""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna import load_study
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore, upload_artifact
from optuna.storages import BaseStorage

from trainer.atomic_files import private_folder

_PREFIX = "artifacts:"
"""The prefix of the system attributes in which Optuna describes a file, as JSON."""


class Artifacts:
    """One folder of files that trials and studies own; `optuna-dashboard --artifact-dir` serves the same folder."""

    def __init__(self, folder: Path, storage: BaseStorage) -> None:
        """Makes the folder. Raises OSError where it cannot be made or written."""
        private_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            self.folder = folder
        self._storage = storage
        self._store = FileSystemArtifactStore(folder)

    def to_trial(self, trial_id: int, path: Path, mimetype: str) -> str:
        """Make a file a running trial's file of its name; returns its id.

        One write of Optuna's, which a surrounding `Fence.write` checks; where its answer was lost, the same again does
        no harm. Raises LeaseLost, and OSError where the folder cannot take the file: then the trial knows of none.
        """
        known = _known(self._storage.get_trial(trial_id).system_attrs, path.name)
        artifact_id = known or str(uuid.uuid4())
        # The file first, unlike Optuna's upload: a full disk would leave the dashboard a name without a file.
        self._replace(artifact_id, path)
        if known is None:
            meta = ArtifactMeta(artifact_id=artifact_id, filename=path.name, mimetype=mimetype, encoding=None)
            try:
                self._storage.set_trial_system_attr(trial_id, f"{_PREFIX}{artifact_id}", json.dumps(asdict(meta)))
            except Exception:
                (self.folder / artifact_id).unlink(missing_ok=True)
                raise
        return artifact_id

    def to_study(self, study_id: int, name: str, path: Path, mimetype: str) -> str:
        """Make a file the study's file of that name; returns its id.

        A file of that name is replaced under its id, so that neither the folder nor the study's attributes grow. A
        reader sees the old file or the new one, never a part. Raises OSError.
        """
        known = _known(self._storage.get_study_system_attrs(study_id), name)
        if known is not None:
            self._replace(known, path)
            return known
        study = load_study(study_name=self._storage.get_study_name_from_id(study_id), storage=self._storage)
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / name
            shutil.copyfile(path, named)
            return upload_artifact(
                artifact_store=self._store, file_path=str(named), study_or_trial=study, mimetype=mimetype
            )

    def _replace(self, artifact_id: str, path: Path) -> None:
        descriptor, beside = tempfile.mkstemp(dir=self.folder, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as target, path.open("rb") as source:
                shutil.copyfileobj(source, target)
            # The dashboard may run as another user: a file of mkstemp is readable by its owner alone.
            Path(beside).chmod(0o644)
            Path(beside).replace(self.folder / artifact_id)
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise


def artifact_ids(storage: BaseStorage, study_id: int) -> list[str]:
    """The ids of the files that a study and its trials own."""
    attributes = [storage.get_study_system_attrs(study_id)]
    attributes += [trial.system_attrs for trial in storage.get_all_trials(study_id, deepcopy=False)]
    described = (value for each in attributes for key, value in each.items() if key.startswith(_PREFIX))
    return [str(known["artifact_id"]) for value in described if (known := json.loads(value)) is not None]


def _known(attributes: Mapping[str, Any], name: str) -> str | None:
    """The id of the file of a name among the system attributes of a trial or a study."""
    for key, value in attributes.items():
        known = json.loads(value) if key.startswith(_PREFIX) else None  # null: somebody deleted it in the dashboard
        if known is not None and known["filename"] == name:
            return str(known["artifact_id"])
    return None
