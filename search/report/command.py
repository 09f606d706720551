"""`python -m search report`: what a search found, as one page that needs no other file, and as JSON, CSV and LaTeX."""

import argparse
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from search.report.content.build import report
from search.report.content.document import Report, SeriesPart
from search.report.content.worst_cases import Wanted
from search.report.files import places, slug, write_report
from search.storage.database import open_storage
from search.storage.errors import look_again, patient
from search.storage.glance import announce_look
from search.storage.url import add_storage, storage_url
from trainer.atomic_files import check_output
from trainer.cli.parser import add_watch, check_watch
from trainer.distributed.signals import until_interrupted
from trainer.errors import UserError

LOOK_SECONDS = 30.0
"""Seconds between two looks of --watch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name, or that of a series: all of its members on one page")
    parser.add_argument("other", nargs="*", help="further studies of the same database, shown side by side")
    add_storage(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="folder for report.html, report.json and tables/, or the page itself, a name that ends with .html "
        "(default: the folder STUDY-report)",
    )
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="draw the worst validation images although [dashboard] images is off: only where all readers may see them",
    )
    parser.add_argument(
        "--latency",
        metavar="TABLE",
        help="times that `python -m search profile` measured; default: the table of [limits] latency_ms",
    )
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="of decoded pictures (default: cache)")
    parser.add_argument("--json", action="store_true", help="what was written, as one JSON document")
    add_watch(parser, "write", LOOK_SECONDS, also="an open page reads itself again; ")


def main(args: argparse.Namespace) -> int:
    """Write the report, once or again and again."""
    check_watch(args, least=1)
    names = [args.study, *args.other]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UserError(f"study {twice!r} is named twice; name each once")
    output = args.output or Path(f"{slug(args.study)}-report")
    check_output(places(output).page)
    refresh = None if args.watch is None else max(1, round(args.watch))
    announce_look(f"reports {', '.join(names)} into {output.absolute()}, from", storage_url(args.storage))
    with patient("report"):
        opened = open_storage(storage_url(args.storage), create=False)
        look = partial(report, opened, names, latency=args.latency)
        whole = partial(look, wanted=Wanted(args.pictures, args.cache))
        if args.watch is None:
            _tell(whole(), output, as_json=args.json)
            return 0
        first = look(refresh=refresh)
    return _watch(first, look, whole, output, args.watch, as_json=args.json)


Look = Callable[..., Report]


def _watch(made: Report, look: Look, whole: Look, output: Path, every: float, *, as_json: bool) -> int:
    """Write again until the searches have ended; a database that is away is waited for. Pictures come at the end."""
    with suppress(KeyboardInterrupt), until_interrupted() as pause:
        while not _ended(made):
            _tell(made, output, as_json=as_json)
            pause(every)
            made = look_again(partial(look, refresh=made.refresh)) or made
        _tell(whole(), output, as_json=as_json)
    return 0


def _ended(made: Report) -> bool:
    begun = all(len(part.members) == part.of for part in made.series)
    return begun and all(study.search.state == "ended" for study in made.studies)


def _tell(made: Report, output: Path, *, as_json: bool) -> None:
    """Write, and say the answer and where it is."""
    files = write_report(made, output)
    if as_json:
        answers = {
            study.name: {"verdict": study.verdict, "answer": study.answer, "next": study.following}
            for study in made.studies
        }
        document = {**{name: str(path) for name, path in files._asdict().items()}, "studies": answers}
        print(json.dumps(document, allow_nan=False, ensure_ascii=False, sort_keys=True), flush=True)
        return
    for part in made.series:
        print("\n".join(_series_lines(part)))
    for study in [] if made.series else made.studies:
        print(f"{study.name}  distillation: {study.distillation}  ({study.headline})")
        print("\n".join(f"  {sentence}" for sentence in study.answer))
    print("  ".join(map(str, files)))
    for study in [] if made.series else made.studies:
        print(f"next: {study.following}", flush=True)


def _series_lines(part: SeriesPart) -> list[str]:
    """What a series showed, and what is not there yet."""
    confirmed = sum(member.state == "confirmed" for member in part.members)
    text = [f"{part.name}  series of {part.of} studies, {len(part.members)} begun, {confirmed} confirmed"]
    for verdict in ("shown", "not_shown", "worse", "not estimable"):
        own = [f"{each.method} ({each.group})" for each in part.differences if each.verdict == verdict]
        text += [f"  gain over no distillation {verdict.replace('_', ' ')}: {'; '.join(own)}"] if own else []
    text += [f"  not there yet: {'; '.join(part.missing)}"] if part.missing else []
    return text
