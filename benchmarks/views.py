"""Whether this program stores the teacher's outputs, found in the fields of a run."""

from typing import Any, get_args

from pydantic import BaseModel

from trainer.config import RunConfig


def views_path() -> str | None:
    """The dotted path in [run] of the number of stored views; None where runs have no such field."""
    return _find(RunConfig, "")


def _find(model: type[BaseModel], prefix: str) -> str | None:
    for name, info in model.model_fields.items():
        if name == "views":
            return f"{prefix}{name}"
        for inner in _models(info.annotation):
            found = _find(inner, f"{prefix}{info.alias or name}.")
            if found is not None:
                return found
    return None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
