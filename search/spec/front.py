"""What the trials of a study are spread over: the choices of one parameter, or the combinations of several.

With `along = ["student.name", "student.width"]` each network with each of its widths is one choice, a point.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search.spec.config import Front
from search.spec.space import Choices, Parameter, Scalar, active
from trainer.errors import UserError, nearest

Point = Mapping[str, Scalar]
"""One choice of the front: a value for each of its parameters that is live there, by the parameter's name."""


def points(paths: Sequence[str], space: Sequence[Parameter], fixed: Mapping[str, Scalar]) -> tuple[Point, ...]:
    """Every choice of a front along these paths, in the order of the file: of the first path, then of the next.

    A path none of whose parameters is live with a point's other values adds nothing to it. fixed: the values of the
    run, by which conditions are judged where nothing is chosen.
    """

    def extend(left: Sequence[str], point: Point) -> Iterator[Point]:
        if not left:
            yield point
            return
        live = [p for p in space if p.path == left[0] and active(p, {**fixed, **point})]
        choices = live[0].probes() if live else ()
        if not choices:
            yield from extend(left[1:], point)
        for choice in choices:
            yield from extend(left[1:], {**point, live[0].name: choice})

    return tuple(extend(paths, {})) if paths else ()


def checked_front(front: Front | None, space: Sequence[Parameter], where: str) -> tuple[str, ...]:
    """The paths of a front, which a space can be spread along. Raises UserError in one line."""
    if front is None:
        return ()
    paths = front.paths
    for path in paths:
        place = f"{where}: front.along = {path!r}"
        along = [p for p in space if p.path == path]
        if not along:
            raise UserError(f"{place}: not in [space]{nearest(path, [p.path for p in space])}")
        if len(paths) == 1:
            if len(along) > 1 or along[0].when or not isinstance(along[0], Choices):
                raise UserError(f"{place}: needs one list of choices without when; write choices = [...]")
            continue
        for parameter in along:
            _check_part(parameter, paths[: paths.index(path)], place)
    return paths


def _check_part(parameter: Parameter, before: Sequence[str], place: str) -> None:
    if not isinstance(parameter, Choices):
        raise UserError(f"{place}: space.{parameter.name} is a range; write all of them as choices = [...]")
    for path, _ in parameter.when:
        if path not in before:
            known = f"; known: {', '.join(before)}" if before else ""
            raise UserError(
                f"{place}: space.{parameter.name}.when names {path!r}, which does not stand before it in front.along"
                f"{known}; put it there, or remove the condition"
            )


def paths_of(along: Any) -> tuple[str, ...]:
    """The paths of a front as a record keeps it: one path, a list of them, or null for none."""
    return () if along is None else (along,) if isinstance(along, str) else tuple(along)


def title(paths: Sequence[str]) -> str:
    """What trials are spread along, as readers see it: `student.width`, `student.name, student.width`."""
    return ", ".join(paths)


def choice_shown(values: Sequence[Any]) -> Any:
    """A choice as readers see it, from its values by path: the value of one path, `unet, 8` of several.

    None where nothing of it is known.
    """
    if len(values) == 1:
        return values[0]
    return ", ".join(str(value) for value in values if value is not None) or None
