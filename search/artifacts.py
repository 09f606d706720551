"""Files that the dashboard shows: pictures of trials and figures of studies, in one folder that it serves."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from optuna import load_study
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import BaseStorage

_PREFIX = "artifacts:"
"""Of the system attributes in which Optuna keeps what it knows of a file, as JSON."""


class Artifacts:
    """One folder of files that trials and studies own; `optuna-dashboard --artifact-dir` serves the same folder."""

    def __init__(self, folder: Path, storage: BaseStorage) -> None:
        """Makes the folder. Raises OSError where it cannot be made or written."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            self.folder = folder
        self._storage = storage
        self._store = FileSystemArtifactStore(folder)

    def to_trial(self, trial_id: int, path: Path, mimetype: str) -> str:
        """Add a file to a running trial under the file's name; returns its id.

        One write of Optuna's, which a surrounding `Fence.write` checks. Raises LeaseLost, and OSError where the folder
        cannot take the file.
        """
        trial = self._storage.get_trial(trial_id)
        return upload_artifact(
            artifact_store=self._store,
            file_path=str(path),
            study_or_trial=trial,
            storage=self._storage,
            mimetype=mimetype,
        )

    def to_study(self, study_id: int, name: str, path: Path, mimetype: str) -> str:
        """Make a file the study's file of that name; returns its id.

        A file of that name is replaced under its id, so that neither the folder nor the study's attributes grow. A
        reader sees the old file or the new one, never a part. Raises OSError.
        """
        for key, value in self._storage.get_study_system_attrs(study_id).items():
            known = json.loads(value) if key.startswith(_PREFIX) else None  # null: somebody deleted it in the dashboard
            if known is not None and known["filename"] == name:
                self._replace(str(known["artifact_id"]), path)
                return str(known["artifact_id"])
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
