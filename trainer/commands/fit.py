"""`python -m trainer fit`: one whole run, and whether it repeats the exported one that it comes from."""

import hashlib
import shlex
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from trainer.atomic_files import writable
from trainer.cli.durations import format_short_duration
from trainer.cli.progress import Counting, Progress
from trainer.config import VolumeData
from trainer.data.classes import opening_work
from trainer.distributed.launch import Outcome, launch, say_beginning
from trainer.distributed.temporary import swept_folder
from trainer.engine.changed_numbers import touched
from trainer.errors import UserError, one_line
from trainer.loggers import Loggers, check_loggers
from trainer.run_file import Entry, RunFile, read

if TYPE_CHECKING:
    from trainer.distributed.ranks import Ranks


def main(args: Namespace) -> int:
    """Train a run: 0, or 1 where a replay that was promised to be equal bit for bit is not. Raises UserError."""
    file = read(args.file, rank=args.rank, sets=args.set)
    recorded = file.entry
    ranks = args.ranks if args.ranks is not None else (recorded.ranks or 1 if recorded else 1)
    threads = args.threads if args.threads is not None else recorded.threads if recorded else None
    if ranks > file.run.batch_size:
        raise UserError(f"--ranks {ranks}: more than the {file.run.batch_size} images of run.batch_size")
    check_loggers(args.mirror)
    say_beginning(args, f"{args.file.absolute()}: this run, a {file.run.student.name}")
    writable(args.output)
    writable(args.runs / "run" if args.runs else None)
    return launch(args, lambda joined: _run(args, file, joined), ranks=ranks, threads=threads)


def _run(args: Namespace, file: RunFile, ranks: "Ranks") -> Outcome:
    from trainer.data import open_data
    from trainer.data.dataset import examples_an_epoch
    from trainer.dry_run import check, refuse_absent_weights, refuse_large_batch
    from trainer.teacher import assessment
    from trainer.teacher.open import naming

    run = file.run
    try:
        known = check(run, ranks=ranks.world)
    except ValueError as error:
        raise UserError(f"{file.path}: run.{one_line(error)}") from error
    # Decoded once, with progress, before the cohort opens it again.
    data = open_data(run.data, cache=args.cache, progress=Counting(opening_work(run.data)) if ranks.leads else None)
    try:
        refuse_large_batch(run, examples_an_epoch(data))
        refuse_absent_weights(run)
    except ValueError as error:
        raise UserError(f"{file.path}: run.{one_line(error)}") from error
    lines = []
    changed = touched(run, file.entry.numbers) if file.entry is not None else None
    if changed is not None:
        lines.append(
            f"{file.path}: an earlier version trained this run, and {changed}: other numbers are to be expected"
        )
    if run.methods():
        # An export names its run, and not the study file whose [teach] trains the teacher.
        with naming(file.path) if file.path.suffix == ".toml" else nullcontext():
            judged = assessment.floor(run, data, ranks=ranks)
        how = "measured" if judged.measured else "recorded"
        lines.append(f"teacher  {judged.name}  validation dice {judged.dice:.3f} ({how})  {judged.overlap_text()}")
    with swept_folder("kd-fit-") as folder:
        scores, epoch, took = _train(args, file, ranks, folder)
    if not ranks.leads:
        return Outcome(())
    lines.append(
        f"epoch {run.epochs}/{run.epochs}  validation {file.metric} {scores[file.metric]:.4f} @ {epoch}  {took}  "
        f"{known.params / 1e6:.2f} M parameters  {ranks.world} rank{'s' if ranks.world > 1 else ''}"
    )
    if args.output is not None:
        lines.append(f"{args.output}  weights of epoch {epoch}")
    outcome = _compared(file, scores, ranks, lines)
    if args.output is None:
        return outcome
    following = f"next: python -m trainer evaluate {shlex.quote(str(args.output))}"
    return replace(outcome, lines=(*outcome.lines, following))


def _train(args: Namespace, file: RunFile, ranks: "Ranks", folder: Path) -> tuple[Mapping[str, float], int, str]:
    """Scores and number of the best epoch, and how long it took; on the lead alone."""
    from trainer import checkpoint
    from trainer.engine.fit import fit
    from trainer.reports import Resume

    work = folder if args.runs is None else args.runs / _name(file, ranks.world)
    state = work / "state.pt"
    resume = Resume(state) if ranks.broadcast(state.is_file()) else None
    best = work / "best.safetensors"
    progress = Progress(file.run.epochs, file.metric, resumed=resume is not None)
    if ranks.leads and resume is None:
        name, epochs = file.run.student.name, file.run.epochs
        logger.info("training {}, {} epochs; the next line comes after an epoch, or in a longer one", name, epochs)
    # The joins belong to the recorded run; what `--set` changes is another one and starts at stream epoch 0.
    replay = file.entry.replay if file.entry and not file.changed else None
    training = fit(
        file.run,
        cache=args.cache,
        ranks=ranks,
        replay=replay or None,
        resume=resume,
        save=state if args.runs else None,
        monitor=file.metric,
        export=best,
        pulse=progress.inside,
    )
    trial = f"fit-{file.entry.rank}" if file.entry else "fit"
    with Loggers(args.mirror if ranks.leads else (), args.mirror_dir, file.path.stem) as log:
        for report in training:
            if ranks.leads:
                progress.hear(report)
                log.tell(trial, report)
    if not ranks.leads:
        return {}, 0, ""
    exported = checkpoint.weights(best)
    if args.output is not None:
        checkpoint.write(args.output, best.read_bytes())
    took = format_short_duration(time.monotonic() - progress.started) + (" since it was resumed" if resume else "")
    return exported.word("scores"), exported.word("epoch"), took


def _name(file: RunFile, world: int) -> str:
    """The folder of a run: what is computed, and by how many."""
    replay = file.entry.replay if file.entry and not file.changed else ()
    return hashlib.sha256(f"{file.run.model_dump_json()}\x1f{replay}\x1f{world}".encode()).hexdigest()[:16]


def _compared(file: RunFile, scores: Mapping[str, float], ranks: "Ranks", lines: list[str]) -> Outcome:
    """Hold the scores against the exported ones, where the file has any for this very run."""
    entry = file.promised
    if entry is None:
        if file.entry and file.changed:
            lines.append(f"not compared with {file.path} #{file.entry.rank}: --set changed {', '.join(file.changed)}")
        return Outcome(tuple(lines))
    differ = {
        name: (scores[name], value) for name, value in entry.scores.items() if name in scores and scores[name] != value
    }
    which = f"{file.path} #{entry.rank}" + (f" (trial {entry.trial})" if entry.trial is not None else "")
    if not any(name in scores for name in entry.scores):
        return Outcome((*lines, f"not compared with {which}: it has none of the scores {', '.join(scores)}"))
    if not differ:
        return Outcome((*lines, f"replay of {which}: equal, bit for bit"))
    name = file.metric if file.metric in differ else next(iter(differ))
    here, there = differ[name]
    difference = f"{name} {here:.6f}, exported {there:.6f}, difference {here - there:+.2g}"
    if len(differ) > 1:
        difference += f" ({len(differ) - 1} other scores differ too)"
    excuse = _excuse(file, entry, ranks)
    text = f"replay of {which}: {difference}" + (f"; {excuse}" if excuse else "; it should be equal, bit for bit")
    return Outcome((*lines, text), 0 if excuse else 1)


def _excuse(file: RunFile, entry: Entry, ranks: "Ranks") -> str:
    """Why another result is to be expected; empty where it is not."""
    import torch

    from trainer.data.augment import picture_libraries

    if touched(file.run, entry.numbers) is not None:
        return "an earlier version trained it"
    if ranks.world != (entry.ranks or 1):
        return f"ranks: {ranks.world} in place of {entry.ranks or 1}"
    if entry.threads is not None and torch.get_num_threads() != entry.threads:
        return f"threads: {torch.get_num_threads()} in place of {entry.threads}"
    if ranks.device.type != "cpu" or file.run.precision != "fp32":
        return f"{file.run.precision} on {ranks.device.type} is not promised to repeat bit for bit"
    if entry.device is not None and not entry.device.startswith("cpu"):
        return f"device: cpu in place of {entry.device}"
    if entry.torch is not None and entry.torch != torch.__version__:
        return f"torch: {torch.__version__} in place of {entry.torch}"
    if not isinstance(file.run.data, VolumeData):
        here = picture_libraries()
        others = [
            f"{name}: {here[name]} in place of {there}"
            for name, there in (entry.libraries or {}).items()
            if name in here and here[name] != there
        ]
        return ", ".join(others)
    return ""
