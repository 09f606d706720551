"""`python -m search enqueue`: trials of a person's own in a running search, and how commands name a search."""

import argparse
import shlex
import tomllib

from search.series.members import each_member, series_named
from search.series.turns import in_turn
from search.spec.config import MAIN
from search.spec.load import find, load
from search.spec.space import Scalar, shown
from search.storage.database import open_storage
from search.storage.errors import patient
from search.storage.url import add_storage, storage_url
from search.study.adapter import StudyAdapter
from search.study.begun import as_begun
from search.study.create import attach_search
from trainer.errors import UserError, received


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name or file, or those of a series: its members that were begun")
    add_storage(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="the same as the workers were given"
    )
    parser.add_argument("--name", help="the same as the workers were given")
    parser.add_argument(
        "params", nargs="+", metavar="PARAMETER=VALUE", help="a value of the trial; what is not given is sampled"
    )
    parser.add_argument("--arm", default=MAIN, help="the arm it belongs to (default: %(default)s, the main search)")


def main(args: argparse.Namespace) -> int:
    """Put the trial into the queue, or into that of every member of a series that was begun, and say so."""
    series = series_named(args.study)
    if series is None:
        return _enqueue_in(args)
    with patient("enqueue"):
        opened = open_storage(storage_url(args.storage), create=False)
        begun = [row.name for row in opened.searches.members(series.name)]
        opened.engine.dispose()
    if not begun:
        raise UserError(f"series {series.name!r}: no member is in {opened.label}; start a worker first")
    return in_turn(each_member(args, [str(series.file.with_name(f"{name}.toml")) for name in begun]), _enqueue_in)


def _enqueue_in(args: argparse.Namespace) -> int:
    with patient("enqueue"):
        opened = open_storage(storage_url(args.storage), create=False)
        spec = as_begun(load(find(args.study), args.set, name=args.name), args.storage)
        return _enqueue(args, attach_search(opened, spec), opened.label)


def _enqueue(args: argparse.Namespace, search: StudyAdapter, label: str) -> int:
    arm = search.spec.arm(args.arm)
    params: dict[str, Scalar] = {}
    for word in args.params:
        name, equals, text = word.partition("=")
        parameter = arm.parameter(name)
        if not equals:
            raise UserError(f"enqueue: {word!r}: write PARAMETER=VALUE, such as student.width=16")
        value = _value(text)
        if not parameter.contains(value):
            raise UserError(
                f"enqueue: {name} = {received(value)}: outside the space of arm {arm.name}; known: {shown(parameter)}"
            )
        params[name] = value
    queue = [t.system_attrs.get("fixed_params") for t in search.trials(arm) if t.state.name == "WAITING"]
    search.enqueue(arm, params)
    if same := queue.count(params):
        print(f"{search.spec.name}: {same} with the same parameters wait already; this is one more")
    waiting = search.counts()[arm.name].waiting
    print(f"{search.spec.name}: queued in arm {arm.name}, where {waiting} now wait  [{label}]")
    print(f"next: python -m search status {shlex.quote(search.spec.name)}  (a worker with a free slot begins it)")
    return 0


def _value(text: str) -> Scalar:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a word without quotes
    if not isinstance(value, bool | int | float | str):
        raise UserError(f"enqueue: {received(value)}: not a single value")
    return value
