"""What makes a study that study: a hash over everything its numbers depend on, and the difference to another in words.

Inside: [objective], what [front] is along, [limits], [run] and [space] with defaults filled in, the schema's number,
and the contents of data and teacher. Outside: how [front] spreads trials, sampler, pruner, budget, enqueue, arms,
confirm, dashboard and [teach], which may change while a study goes on, and in [run] the places in
`trainer.run_file.PLACES`: what lies there is known by its content.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from models.config import EnsembleTeacher, ExportedTeacher, SmpNetwork
from search.spec.arms import Arm
from search.spec.config import Front, Limits, Objective
from search.spec.space import Parameter
from trainer.config import RunConfig
from trainer.config_paths import Table, flatten, replace
from trainer.run_file import NETWORKS, PLACES

SCHEMA = 1
"""Raised when the meaning of a study file changes."""


def document(
    objective: Objective,
    front: Front | None,
    limits: Limits,
    arm: Arm,
    *,
    data_hash: str | None = None,
    teacher_hash: str | None = None,
) -> Table:
    """All that a study's identity depends on, as JSON values; `difference` compares two of them."""
    return {
        "objective": {objective.direction: objective.metric},
        "front": None if front is None else front.along if isinstance(front.along, str) else list(front.along),
        "limits": limits.model_dump(mode="json"),
        **_arm_document(arm),
        "content": {"data": data_hash, "teacher": teacher_hash},
    }


def arm_identity(arm: Arm, *, data_hash: str | None = None, teacher_hash: str | None = None) -> str:
    """sha256 (hex) over an arm's resolved run and space, and the contents of data and teacher."""
    return digest({**_arm_document(arm), "content": {"data": data_hash, "teacher": teacher_hash}})


def _arm_document(arm: Arm) -> Table:
    table = {"schema": SCHEMA, "run": run_document(arm.base), "space": space_document(arm.space)}
    inputs = _chosen_inputs(arm)
    return {**table, "inputs": inputs} if inputs else table


def _chosen_inputs(arm: Arm) -> Table:
    """By encoder and weights that the space chooses: what their images are normalised by, where it is not ImageNet's.
    What [run] names stands in the run itself."""
    if not any(p.path in NETWORKS for p in arm.space):
        return {}
    students = (arm.resolve(params).student for params in arm.probes())
    return {
        f"{student.encoder} {student.weights}": {"mean": list(student.mean), "std": list(student.std)}
        for student in students
        if isinstance(student, SmpNetwork) and student.mean is not None and student.std is not None
    }


def run_document(run: RunConfig) -> Table:
    """A run with defaults filled in and without places."""
    table = run.model_dump(mode="json")
    if isinstance(run.teacher, ExportedTeacher):
        table["teacher"].pop("trust", None)  # absent, as in documents from before there was such a word
    for known in (*table["data"].get("classes", ()), *table["data"].get("regions", ())):
        known.pop("code", None)  # what DICOM calls a class changes no number, and may be added to a running study
    if isinstance(run.teacher, EnsembleTeacher):
        table["teacher"]["members"] = [member.placeless() for member in run.teacher.members]
    flat = flatten(table)
    gone = {path: None for path in PLACES if path in flat}
    return replace(RunConfig, table, gone)[0]


def space_document(space: Sequence[Parameter]) -> Table:
    """A space by parameter name. The order of choices counts, that of parameters and conditions does not."""
    return {
        p.name: {**p.facts(), "when": {path: sorted(map(json.dumps, allowed)) for path, allowed in p.when}}
        for p in space
    }


def digest(values: Mapping[str, Any]) -> str:
    """sha256 (hex) over canonical JSON: sorted keys, no spaces, floats as Python's shortest form."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two documents, a line each: `run.epochs: 100 -> 50`."""
    before, after = flatten(old), flatten(new)
    return [
        f"{path}: {_shown(before, path)} -> {_shown(after, path)}"
        for path in sorted(before.keys() | after.keys())
        if _shown(before, path) != _shown(after, path)
    ]


def _shown(flat: Mapping[str, Any], path: str) -> str:
    value = flat.get(path)
    return "absent" if value is None or value == {} else json.dumps(value)
