"""The card of a package: what it is, what it learned from, how good it is and how that is known, and its limits.

Owners' terms of public data sets stand here as far as this program knows them; the files that come with a set decide.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.config import RunConfig
from trainer.data.classes import hexadecimal
from trainer.data.splits.part_sizes import Nouns, Scored, nouns_of
from trainer.errors import counted
from trainer.package.inference import CARD, NETWORK, PARITY, PREPROCESSING, RUN, SUMS, WEIGHTS, Preprocessing
from trainer.package.volumes import VolumePreprocessing

if TYPE_CHECKING:
    from trainer.data.dataset import DataSet, Part
    from trainer.package.lower_precision import Lowered
    from trainer.package.parity import Parity
    from trainer.package.volume_parity import VolumeParity
from collections.abc import Iterable

PARTS: tuple["Part", ...] = ("train", "validation", "test")
LIMITS = """\
- Not a medical device. It is a research artefact, validated for no clinical decision, and no authority has seen it.
- It marks what looks like the {objects} of its training {rows}. Other {others}
  are unknown to it until it is measured there; an empty mask is no proof that nothing is there.
{threshold}- Terms of the training {rows} may bind what was trained on them; see above.
- Where the data names no patients, its {rows} are taken as independent; scores are then too sure of themselves."""


OF_PICTURES = "cameras, hospitals, preparations and picture sizes"
OF_SCANS = "scanners, protocols, hospitals and parts of the body"
THRESHOLD = "- The threshold was fixed on {rows} like those it was trained on; elsewhere it may be wrong.\n"
BY_CLASS = ("dice", "iou", "precision", "recall")
"""Scores that a card has of each class."""


@dataclass(frozen=True)
class Score:
    """One score of a confirmation."""

    part: str
    """"validation", "test", or the name of an unseen source."""
    images: int
    title: str
    """What it is: "Dice of these weights, mean over images"."""
    value: float
    interval: tuple[float, float, float] | None = None
    """Low, high, confidence."""
    scored: Scored = "image"
    """What `images` counts: image, or case where a volume or all slices of one are scored together."""


@dataclass(frozen=True)
class Confirmation:
    """What confirmation knows of the configuration that is shipped."""

    study: str
    configuration: str
    seed: int
    why: str
    """Why this configuration, and why this seed, in one sentence each."""
    scores: tuple[Score, ...]
    claims: tuple[str, ...]
    """One sentence each."""


@dataclass(frozen=True)
class PackageFacts:
    """What a card says beside the evidence."""

    title: str
    run: RunConfig
    params: int
    gflops: float
    """Cost of one image; two operations for each multiply-add."""
    sha256: str
    """Hash of the weights."""
    epoch: int
    scores: Mapping[str, float]
    """On validation at that epoch."""
    data: Mapping[str, object]
    """As `data_facts` gives it."""
    preprocessing: Preprocessing | VolumePreprocessing
    parity: "Parity | VolumeParity"
    lowered: "Lowered | None" = None
    """None: shipped in float32."""


def data_facts(data: "DataSet") -> dict[str, object]:
    """Sources, terms, and number and hash of the images of each part; test images are counted, not opened."""
    sources = {sample.source for part in PARTS[:2] for sample in data.samples(part)}
    hashes = {part: sorted(data.image_hashes(part)) for part in PARTS}
    return {
        "content": data.content_hash,
        "terms": terms(sources),
        "parts": {
            part: {"images": len(digests), "sha256": hashlib.sha256("\n".join(digests).encode()).hexdigest()}
            for part, digests in hashes.items()
        },
    }


def card(facts: PackageFacts, confirmation: Confirmation | None) -> str:
    """The whole card, Markdown."""
    nouns = nouns_of(facts.run.data)
    blocks = [
        f"# {facts.title}",
        _what(facts),
        "## Scores",
        _confirmed(confirmation) if confirmation else _unconfirmed(facts, nouns),
        *_classes(facts, nouns),
        "## Data and its terms",
        _data(facts, nouns),
        "## How it was trained",
        _training(facts.run),
        "## Input and output",
        _contract(facts, nouns),
        "## Limits of use",
        _limits(facts.preprocessing, nouns),
        "## Files",
        _files(),
    ]
    return "\n\n".join(blocks) + "\n"


def _what(facts: PackageFacts) -> str:
    volumes = isinstance(facts.preprocessing, VolumePreprocessing)
    return (
        f"Segments {'volumes' if volumes else 'pictures'} into {_listed(facts.preprocessing.classes)}: "
        f"{describe_run(facts.run)}, {facts.params:,} parameters, "
        f"{facts.gflops:.3g} GFLOP a {'patch' if volumes else 'picture'}. "
        f"Weights of epoch {facts.epoch}, sha256 `{facts.sha256}`."
    )


def describe_run(run: RunConfig) -> str:
    """The student's name with the options that shape it: `unet, width 8`."""
    options = run.student.model_dump(exclude={"name", "checkpoint", "weights", "mean", "std"})
    return ", ".join([run.student.name, *(f"{name} {value}" for name, value in options.items())])


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _classes(facts: PackageFacts, nouns: Nouns) -> list[str]:
    """The labels with names, colours and validation scores; nothing where there are two, or one region."""
    classes, regions = facts.preprocessing.label_classes, facts.preprocessing.regions
    if len(classes) == (1 if regions else 2):
        return []
    kind = "region" if regions else "class"
    rows = [
        f"| {'output' if regions else 'label'} | {kind} | colour | {' | '.join(BY_CLASS)} |",
        "| --- " * (3 + len(BY_CLASS)) + "|",
    ]
    for label, known in enumerate(classes):
        names = BY_CLASS if label or regions else ()
        values = [_value(facts.scores.get(f"{name}.{known.name}")) for name in names] or [""] * len(BY_CLASS)
        rows.append(f"| {label} | {known.name} | `{hexadecimal(known.colour)}` | {' | '.join(values)} |")
    means = [_value(facts.scores.get(name)) for name in BY_CLASS]
    rows.append(f"| | {'mean' if regions else f'mean without {classes[0].name}'} | | {' | '.join(means)} |")
    how = "each region by itself, since regions overlap" if regions else "each class against all others"
    note = (
        f"Scores are those of the validation {nouns.scored}s at epoch {facts.epoch}, which also chose the epoch: means "
        f"over {nouns.scored}s of {how}."
    )
    return ["## Regions" if regions else "## Classes", "\n".join(rows), note]


def _value(score: float | None) -> str:
    return "not known" if score is None else f"{score:.4f}"


def _limits(p: Preprocessing | VolumePreprocessing, nouns: Nouns) -> str:
    two = bool(p.least)
    objects = "regions" if p.regions else "foreground" if two else "classes"
    volumes = isinstance(p, VolumePreprocessing)
    rows = f"{nouns.row}s"
    return LIMITS.format(
        objects=objects,
        threshold=THRESHOLD.format(rows=rows) if two else "",
        others=OF_SCANS if volumes else OF_PICTURES,
        rows=rows,
    )


def _unconfirmed(facts: PackageFacts, nouns: Nouns) -> str:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in sorted(facts.scores.items()) if "." not in name)
    return (
        f"**Unconfirmed.** These are scores on the validation {nouns.scored}s that also chose the epoch, and perhaps "
        f"the configuration, so they are likely to be too high: {scores}.\n\nNo test {nouns.row} was used."
    )


def _confirmed(confirmation: Confirmation) -> str:
    lines = [
        f"Confirmed by study `{confirmation.study}`: configuration `{confirmation.configuration}`, "
        f"seed {confirmation.seed}. {confirmation.why}",
        _table(confirmation.scores),
    ]
    lines += ["\n".join(f"- {claim}" for claim in confirmation.claims)] if confirmation.claims else []
    return "\n\n".join(lines)


def _table(scores: Sequence[Score]) -> str:
    things = f"{next((each.scored for each in scores), 'image')}s"
    rows = [f"| part | {things} | score | value | interval |", "| --- | --- | --- | --- | --- |"]
    for each in scores:
        interval = "not known"
        if each.interval is not None:
            low, high, confidence = each.interval
            # Scores lie in [0, 1]; an interval of few seeds knows nothing of that.
            low, high = max(low, 0.0), min(high, 1.0)
            interval = f"{low:.4f} to {high:.4f} ({confidence:.0%})"
        rows.append(f"| {each.part} | {each.images} | {each.title} | {each.value:.4f} | {interval} |")
    return "\n".join(rows)


def _data(facts: PackageFacts, nouns: Nouns) -> str:
    parts, known = facts.data["parts"], facts.data["terms"]
    lines = [f"Content hash of the split: `{facts.data['content']}`.", ""]
    if isinstance(known, Mapping):
        lines += [f"- {source}: {terms}" for source, terms in known.items()]
    lines += ["", f"| part | {nouns.row}s | sha256 over the sorted hashes of its {nouns.row}s |", "| --- | --- | --- |"]
    if isinstance(parts, Mapping):
        lines += [f"| {part} | {each['images']} | `{each['sha256']}` |" for part, each in parts.items()]
    return "\n".join(lines)


def _training(run: RunConfig) -> str:
    if run.teacher is None or not run.methods():
        taught = "Without a teacher."
    else:
        options = run.teacher.model_dump(include={"name", "width", "encoder"})
        taught = f"Distilled with `{run.method}` from {', '.join(map(str, options.values()))}."
    return (
        f"{taught} {counted(run.epochs, 'epoch')}, batch {run.batch_size}, {run.optim.name}, learning rate "
        f"{run.optim.lr:g}, seed {run.seed}, {run.precision}. All of it is in `{RUN}`; "
        f"`python -m trainer fit {RUN}` trains it again."
    )


def _contract(facts: PackageFacts, nouns: Nouns) -> str:
    p = facts.preprocessing
    origin = {
        "default": f"the default; it was not chosen on {nouns.scored}s",
        "given": "given by hand",
        "validation": f"chosen on validation {nouns.scored}s",
    }
    threshold = f"The likeliest class of each {nouns.element} counts."
    if p.regions:
        above = (
            f"{p.threshold:g}"
            if p.thresholds is None
            else "its own: " + ", ".join(f"{name} {at:g}" for name, at in zip(p.classes, p.thresholds, strict=True))
        )
        threshold = (
            f"Its outputs are of regions, which overlap: a {nouns.element} is in each whose sigmoid is above "
            f"{above} ({origin[p.threshold_from]})."
        )
    elif p.threshold is not None:
        threshold = (
            f"A {nouns.element} is {p.classes[1]} above probability {p.threshold:g} ({origin[p.threshold_from]})."
        )
    if isinstance(p, VolumePreprocessing):
        return f"{_volumes(p, _computes(facts))} {threshold}\n\n{_held(facts)}"
    channels = p.channels if isinstance(p.channels, str) else ", ".join(p.channels)
    deep = f" with {p.bits} bits" if p.bits > 8 else ""
    return (
        f"`{NETWORK}` takes {channels}{deep} at {p.size} x {p.size} ({p.fit}), normalised as `{PREPROCESSING}` says, "
        f"and {_computes(facts)}. {threshold}\n\n"
        f"{_held(facts)}"
    )


def _computes(facts: PackageFacts) -> str:
    if facts.lowered is None:
        return "computes in float32"
    return {
        "int8": "computes in int8 where onnxruntime can",
        "fp16": "is stored in float16",
        "bf16": "computes in bfloat16 in OpenVINO",
    }[facts.lowered.precision]


def _held(facts: PackageFacts) -> str:
    """What a lower precision costs, and the network beside torch."""
    return "\n\n".join([*([facts.lowered.described()] if facts.lowered else []), facts.parity.described()])


def _volumes(p: VolumePreprocessing, computes: str) -> str:
    """What a package for volumes takes and does."""
    channels = counted(p.channels, "channel") if isinstance(p.channels, int) else ", ".join(p.channels)
    spacing = "each case's own spacing" if p.spacing is None else " x ".join(f"{each:g}" for each in p.spacing) + " mm"
    window = "" if p.window is None else f", intensities {p.window[0]:g} to {p.window[1]:g} brought to 0 to 1"
    crop = "" if p.crop is None else f", cut to voxels that are {p.crop}"
    steps = f"turned to {p.orientation}, brought to {spacing}{window}{crop}, z-score {p.zscore}"
    if p.schemes:
        kinds = ", ".join(scheme.scheme for scheme in p.schemes)
        steps = f"prepared as nnU-Net does it ({kinds}), its axes as stored, brought to {spacing}"
    return (
        f"`{NETWORK}` takes patches of {' x '.join(map(str, p.patch))} voxels ({channels}) and {computes}; "
        f"`{PREPROCESSING}` has all steps. A NIfTI file is {steps}; "
        f"patches overlap by {p.overlap:g} with {p.weights} weights, "
        "and logits go back to the file's own grid before labels are chosen. "
        "A label file has the shape and the affine of its image."
    )


def _files() -> str:
    descriptions = {
        WEIGHTS: "the weights with what is known of them, for this program",
        NETWORK: "the network for onnxruntime and others",
        PREPROCESSING: "what happens before and after the network",
        RUN: "the complete run",
        PARITY: "how the ONNX file was compared with torch",
        CARD: "this page",
        SUMS: "`sha256sum -c SHA256SUMS` checks the rest",
    }
    return "\n".join(f"- `{name}`: {what}" for name, what in descriptions.items())


TERMS: Mapping[str, str] = {
    "Kvasir-SEG": "research and education with citation (Jha et al. 2020); other use needs the owners' permission",
    "CVC-ClinicDB": "research with citation (Bernal et al. 2015); its frames come from 29 sequences",
    "CVC-ColonDB": "research with citation (Bernal et al. 2012); its frames come from 15 sequences",
    "ETIS-LaribPolypDB": "research with citation (Silva et al. 2014); its frames come from 34 sequences",
    "blobs": "drawn by this program; free of anybody's terms",
}
"""Source, as a split file names it -> its terms."""
UNKNOWN = "unknown to this program: ask whoever gave you the images"


def terms(sources: Iterable[str]) -> dict[str, str]:
    """The terms of sources by name, sorted; UNKNOWN for those that are not in TERMS."""
    return {source: TERMS.get(source, UNKNOWN) for source in sorted(set(sources))}
