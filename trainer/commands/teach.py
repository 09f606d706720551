"""`python -m trainer teach`: train the teacher that a study names, once."""

import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from models.config import NetworkTeacher, SmpNetwork
from trainer.atomic_files import writable
from trainer.cli.durations import format_short_duration
from trainer.cli.progress import Counting, InsideEpoch, Progress
from trainer.config import RunConfig
from trainer.data.classes import input_text, opening_work
from trainer.data.dataset import examples_an_epoch
from trainer.data.splits.part_sizes import nouns_of, scored_as
from trainer.distributed.launch import STOPPED, Outcome, launch, say_beginning
from trainer.errors import UserError, counted, one_line, received
from trainer.loggers import Loggers, check_loggers
from trainer.run_file import PLACES, read
from trainer.series import Member, Series, series_in

if TYPE_CHECKING:
    from models.config import TeacherConfig
    from trainer.checkpoint import Weights
    from trainer.data.dataset import DataSet
    from trainer.distributed.ranks import Ranks
    from trainer.reports import Pulse

FORMAT = 1
"""Version of the metadata that a teacher's file has beside those of any export."""
STATE = "state.pt"
"""Everything that a training goes on from."""


def main(args: Namespace) -> int:
    """Train, resume or find the teacher, or all teachers of a series. Raises UserError, CheckpointError, DataError."""
    check_loggers(args.mirror)
    series = series_in(args.file)
    return _teach_one(args) if series is None else _teach_all(args, series)


def _teach_all(args: Namespace, series: Series) -> int:
    """Each distinct teacher of a series once, in the order of the members; ends with the first that is not taught."""
    if args.output is not None:
        raise UserError(f"--output {args.output}: a series may have several teachers; give a member: {series.name}.1")
    first: dict[str, tuple[Member, RunConfig | None]] = {}
    for member in series.members:
        file = read(series.path(member), sets=args.set)
        teacher = file.run.teacher
        if not isinstance(teacher, NetworkTeacher) or teacher.checkpoint is None or _made_elsewhere(teacher):
            continue  # what was trained elsewhere is looked at by `search validate`
        other, recipe = first.setdefault(teacher.checkpoint, (member, file.teacher_run()))
        if recipe != file.teacher_run():
            raise UserError(
                f"{series.file}: {other.called} and {member.called} have run.teacher.checkpoint = "
                f"{teacher.checkpoint!r} for two teachers; give each of them a file of its own"
            )
    if not first:
        raise UserError(f"{series.file}: no member has a teacher to be trained")
    if "RANK" in os.environ:
        raise UserError(
            f"{series.file}: under torchrun one teacher at a time: give a member, {series.name}.1, or --ranks"
        )
    for place, (member, _) in enumerate(first.values(), 1):
        logger.info("teacher {} of {}: that of {}", place, len(first), member.called)
        path = series.path(member)
        again = [str(path) if Path(word) == args.file else word for word in sys.argv[1:]]
        again += ["--series", str(series.file)]
        code = _teach_one(Namespace(**{**vars(args), "file": path, "series": series.file}), again)
        if code:
            return code
    print(f"next: python -m search validate {shlex.quote(str(args.file))}", flush=True)
    return 0


def _teach_one(args: Namespace, again: Sequence[str] | None = None) -> int:
    """The teacher of one study. again: what ranks of their own are started with; None: the command line."""
    file = read(args.file, sets=args.set)
    config = file.run.teacher
    say_beginning(args, f"{args.file.absolute()}: the teacher of this study")
    if config is not None and _made_elsewhere(config):
        if args.output is not None or args.again:
            raise UserError(f"{args.file}: run.teacher: was trained elsewhere; leave --output and --again out")
        return launch(args, lambda ranks: _judge(args, file.run, ranks), ranks=args.ranks or 1, threads=args.threads)
    run = file.teacher_run()
    if args.output is None and (not isinstance(config, NetworkTeacher) or config.checkpoint is None):
        raise UserError(f"{args.file}: run.teacher.checkpoint: missing; name the file to be written, or give -o FILE")
    ranks = 1 if args.ranks is None else args.ranks
    try:
        code = launch(
            args, lambda joined: _teach(args, run, file.run, joined), ranks=ranks, threads=args.threads, arguments=again
        )
    except KeyboardInterrupt:
        _say_how_to_go_on(args, file.run)
        raise
    if code == STOPPED:
        _say_how_to_go_on(args, file.run)
    return code


def _say_how_to_go_on(args: Namespace, study: RunConfig) -> None:
    """Where an epoch was trained whole before somebody stopped it."""
    if (_work_folder(_output(args, study)) / STATE).is_file():
        logger.info("the same command goes on after its last whole epoch")


def _output(args: Namespace, study: RunConfig) -> Path:
    from trainer.teacher.open import located

    output: Path = args.output or located(study.teacher)
    return output


def _work_folder(output: Path) -> Path:
    """Where the state of a training that has not ended lies."""
    return output.with_name(f".{output.name}.teach")


def _made_elsewhere(config: "TeacherConfig") -> bool:
    from trainer.teacher.open import ours

    return not ours(config)


def _judge(args: Namespace, run: RunConfig, ranks: "Ranks") -> Outcome:
    """What a teacher of another program is worth on the data; nothing is trained."""
    from trainer.data import open_data
    from trainer.teacher.assessment import facts

    data = open_data(run.data, cache=args.cache, progress=Counting(opening_work(run.data)) if ranks.leads else None)
    known = facts(run, data, ranks=ranks, whole=True)
    if not ranks.leads:
        return Outcome(())
    ece = f"foreground ECE {known.calibration_positive:.3f}  chosen-class ECE {known.calibration:.3f}"
    sure = f"train dice {known.train_dice:.3f}  {ece}  entropy {known.entropy:.3f}"
    lines = (f"validation dice {known.dice:.3f}  {sure}", f"{known.name}  sha256 {known.sha256[:8]}...")
    return Outcome((*lines, known.overlap_text(), *known.notes, "nothing to do: trained elsewhere"))


def _teach(args: Namespace, run: RunConfig, study: RunConfig, ranks: "Ranks") -> Outcome:
    from trainer.data import open_data
    from trainer.dry_run import refuse_absent_weights
    from trainer.engine.fit import fit
    from trainer.reports import Resume

    output = _output(args, study)
    refuse_untrainable(args.file, run, ranks=ranks.world)
    data = open_data(run.data, cache=args.cache, progress=Counting(opening_work(run.data)) if ranks.leads else None)
    refuse_untrainable(args.file, run, ranks=ranks.world, images=examples_an_epoch(data))
    work = _work_folder(output)
    run = ranks.broadcast(run if args.again else as_begun(run, data.content_hash, output, work))
    name = identity(run, data.content_hash)
    least = 0.0 if study.teacher is None else study.teacher.min_dice
    if output.exists() and not args.again:
        return Outcome((*_finished(output, run, name, data), *_next(args, output, least)))
    writable(output)
    with _recipe_of(args.file):
        refuse_absent_weights(run)
    state = _prepare(work, name, ranks, again=args.again)
    progress = Progress(run.epochs, resumed=state is not None)
    resume = Resume(state) if state else None
    if ranks.leads:
        logger.info(
            "training {}, {} of {} {}; the next line comes after an epoch, or in a longer one",
            run.student.name, counted(run.epochs, "epoch"), examples_an_epoch(data), input_text(run.data),
        )  # fmt: skip
    best = work / "best.safetensors"
    with Loggers(args.mirror if ranks.leads else (), args.mirror_dir, args.file.stem) as log:
        training = fit(
            run, cache=args.cache, ranks=ranks, resume=resume, save=work / STATE, export=best, pulse=progress.inside
        )
        for report in training:
            if ranks.leads:
                progress.hear(report)
                log.tell("teach", report)
    took = format_short_duration(time.monotonic() - progress.started) + (" since it was resumed" if resume else "")
    pulse = InsideEpoch(lambda line: logger.info("{}", line), about=lambda: "measuring") if ranks.leads else None
    outcome = _finish(work, output, run, name, data, ranks, took, pulse)
    return Outcome((*outcome.lines, *_next(args, output, least))) if ranks.leads else outcome


def _next(args: Namespace, output: Path, least: float) -> tuple[str, ...]:
    """What is typed after the teacher is there: a better recipe, where the search would refuse this one."""
    from trainer import checkpoint

    file, study = checkpoint.weights(output), shlex.quote(str(args.file))
    dice, epochs = file.word("scores")["dice"], file.word("run")["epochs"]
    if dice >= least:
        # Of a series it is said once, when all of its teachers are there.
        return () if args.series else (f"next: python -m search validate {study}",)
    return (
        f"below run.teacher.min_dice = {least:g}, so a search refuses it: lower that, or train longer: "
        f"python -m trainer teach {study} --again --set teach.epochs={2 * epochs}",
    )


def refuse_untrainable(path: Path, run: RunConfig, *, ranks: int = 1, images: int | None = None) -> None:
    """Raise UserError in one line where the teacher's recipe cannot be trained so. images: training images, where they
    are known."""
    from trainer.dry_run import check, refuse_large_batch

    with _recipe_of(path):
        check(run, ranks=ranks)
        if images is not None:
            refuse_large_batch(run, images)


@contextmanager
def _recipe_of(path: Path) -> Iterator[None]:
    """What is wrong with the recipe, as a mistake in the study file: the recipe's student is the teacher there."""
    try:
        yield
    except ValueError as error:
        text = one_line(error)
        text = f"run.teacher.{text.removeprefix('student.')}" if text.startswith("student.") else f"teach: {text}"
        raise UserError(f"{path}: {text.replace('the student', 'the teacher')}") from error


def identity(run: RunConfig, content: str) -> str:
    """Hash of what a teacher's weights depend on: the run without places, and the data's content hash."""
    text = json.dumps([_placeless(run.model_dump(mode="json")), content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def as_begun(run: RunConfig, content: str, output: Path, work: Path) -> RunConfig:
    """The recipe, or the same with ImageNet's mean and deviation where a file or a begun training has it: what was
    written before encoders got what their weights expect stays the teacher that it is."""
    if not isinstance(run.student, SmpNetwork) or run.student.mean is None:
        return run
    older = run.model_copy(update={"student": run.student.model_copy(update={"mean": None, "std": None})})
    name, mark = identity(older, content), work / "identity"
    return older if name in (_identity_in(output), mark.read_text() if mark.is_file() else None) else run


def _identity_in(output: Path) -> str | None:
    from trainer import checkpoint

    return checkpoint.weights(output).word("identity") if output.is_file() else None


def _placeless(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        key: _placeless(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in table.items()
        if f"{prefix}{key}" not in PLACES
    }


def _prepare(work: Path, name: str, ranks: "Ranks", *, again: bool) -> Path | None:
    """The checkpoint of the same recipe to go on from, if there is one; that of another is thrown away by the lead."""
    from trainer.checkpoint import write

    state: Path | None = None
    if ranks.leads:
        mark = work / "identity"
        same = mark.is_file() and mark.read_text() == name
        if work.exists() and (again or not same):
            shutil.rmtree(work)
        if not work.exists():
            write(mark, name.encode())
        elif (work / STATE).is_file():
            state = work / STATE
    return ranks.broadcast(state)


def _finished(output: Path, run: RunConfig, name: str, data: "DataSet") -> tuple[str, ...]:
    """What there is to say of a file that is there already. Raises UserError where it is another teacher's."""
    from trainer import checkpoint

    file = checkpoint.weights(output)
    if file.word("identity") == name:
        return (*_summary(output, file, data), "nothing to do: trained before by this recipe on this data")
    why = _difference(file.word("run"), run)
    if not why:
        known = str(file.word("data"))
        why = f"data {known[:12]}..., here {data.content_hash[:12]}..." if known != data.content_hash else "unfinished"
    raise UserError(
        f"{output}: was trained by another recipe or on other data ({why}); name another file or use --again"
    )


def _difference(table: Mapping[str, Any] | None, run: RunConfig) -> str:
    """The first setting that differs, as `path was x, here y`."""
    if table is None:
        return "recipe unknown"
    was, here = (_flat(_placeless(each)) for each in (table, run.model_dump(mode="json")))
    for path in {**was, **here}:
        if was.get(path) != here.get(path):
            return f"{path} was {received(was.get(path))}, here {received(here.get(path))}"
    return ""


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _finish(
    work: Path,
    output: Path,
    run: RunConfig,
    name: str,
    data: "DataSet",
    ranks: "Ranks",
    took: str,
    pulse: "Pulse | None",
) -> Outcome:
    """Measure the best epoch's weights on both parts and write the file with all that is known of them."""
    import models
    from trainer import checkpoint
    from trainer.checkpoint import ready
    from trainer.data.classes import size_of
    from trainer.evaluation.calibration import Calibration
    from trainer.evaluation.metrics import validate
    from trainer.evaluation.per_image import scored_units

    if ranks.leads:
        logger.info("measuring its best epoch on the validation and training {}s", scored_as(run.data))
    # The lead wrote it: the others must not look before.
    best = ranks.broadcast(work / "best.safetensors")
    made = ready(best, device=ranks.device)
    network = made.network
    calibration = Calibration(data, "validation", ranks)
    hears = partial(scored_units, pulse, config=run.data)
    see = partial(validate, network, data, ranks=ranks, precision=run.precision)
    scores = see("validation", keep=calibration.hear, progress=hears("validation")).means
    train = see("train", progress=hears("training part")).means
    error, positive, entropy = calibration.error(), calibration.positive_error(), calibration.entropy()
    if not ranks.leads:
        return Outcome(())
    metadata = {key: json.loads(text) for key, text in made.file.metadata.items()} | {
        "teacher": FORMAT,
        "identity": name,
        "train": train,
        "calibration": error,
        "calibration_positive": positive,
        "entropy": entropy,
        "params": models.live_parameters(
            made.run.student,
            in_channels=data.channels,
            classes=made.classes,
            size=size_of(made.run.data),
            dims=network.dims,
        ),
    }
    checkpoint.export(output, made.file.tensors, metadata)
    shutil.rmtree(work)
    file = checkpoint.weights(output)
    first = (
        f"epoch {run.epochs}/{run.epochs}  validation dice {scores['dice']:.3f} @ {file.word('epoch')}  "
        f"train dice {train['dice']:.3f}  foreground ECE {positive:.3f}  chosen-class ECE {error:.3f}  "
        f"entropy {entropy:.3f}  {took}"
    )
    return Outcome((first, *_summary(output, file, data)[1:]))


def _summary(output: Path, file: "Weights", data: "DataSet") -> tuple[str, ...]:
    """The facts that a finished file holds, and what they mean on the data."""
    from trainer.teacher.assessment import alike, seen

    dice, train = file.word("scores")["dice"], file.word("train")["dice"]
    sure = {
        "foreground ECE": file.word("calibration_positive"),
        "chosen-class ECE": file.word("calibration"),
        "entropy": file.word("entropy"),
    }
    more = "".join(f"  {name} {value:.3f}" for name, value in sure.items() if value is not None)
    first = f"validation dice {dice:.3f} @ {file.word('epoch')}  train dice {train:.3f}{more}"
    counts = ((seen(file, data), "of them"), (alike(file, data), "near-identical to"))
    bad = ", ".join(
        f"{count} {how} {part}" for counts_of, how in counts for part, count in (counts_of or {}).items() if count
    )
    known = counted(len(file.word("train_images")), nouns_of(data.config).row)
    images = f"trained on {known}, {bad or 'none of them validation or test'}"
    size = f"{file.word('params') / 1e6:.2f} M"
    return first, f"{output}  {size}  sha256 {file.sha256[:8]}...  {images}"
