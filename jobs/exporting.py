"""Exports: a trained model in a folder of its own, with a card that says what it is.

The worker packs weights, settings, sources and a loader into an archive. Here it is unpacked, and
the card is added, from what the records know. A new folder appears whole or not at all; one that is
there and empty, perhaps the mount of a disk, is filled, `load.py` last.
"""

import contextlib
import io
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from jobs.errors import ArtifactError, NotAllowed, UnrollError
from jobs.files import ARCHIVE_FILE
from jobs.handle import PREDICT_PRIORITY, JobHandle, Submitter, where_the_model_is
from jobs.job import Job, JobState
from jobs.spec import EvaluateSpec, ExportSpec
from jobs.wording import printable

#: What an export holds beside its sources.
_LOADER: Final = "load.py"
_NAMES: Final = {"weights.pt", "config.json", _LOADER}
_BESIDE: Final = "source/"
#: What makes two evaluations the same one, made twice.
_ALIKE: Final = ("split_digest", "checkpoint", "decoding", "signatures", "metric")
_README: Final = """# Using this model

    from load import Model
    model = Model()
    print(model.predict(["a line of text"], beam=5))

or `python load.py < lines > answers`. It needs torch and NumPy (of the versions in `config.json`,
or later ones), and `tokenizers` where the vocabulary is of subwords. The service that trained the
model is not needed: `source/` holds what is imported. `card.md` says what the model is.
"""


class Exporter(Submitter, Protocol):
    """What an export needs of a client."""

    @property
    def store_root(self) -> Path:
        """The folder in which this machine keeps the files of jobs, if it does."""

    def list(self, state: JobState | None = None, *, limit: int = 1000) -> list[Job]:
        """Return the records of the newest jobs."""


def export(
    client: Exporter,
    trained: JobHandle,
    folder: Path,
    timeout: float | None,
    wait: Callable[[JobHandle], Any] | None = None,
) -> Path:
    """Write a model into a folder that is empty or not there; return it.

    `wait` is given the job first, and may say what is waited for. Raise NotAllowed for another
    folder, JobFailed, WaitTimeout, and ArtifactError where the archive is too large to travel and
    no store is shared.
    """
    folder = folder.expanduser().absolute()
    refuse_what_is_taken(folder)
    record = trained.record
    resources = where_the_model_is(record)
    job = client.submit(ExportSpec(job=trained.id, resources=resources, priority=PREDICT_PRIORITY))
    try:
        if wait:
            wait(job)
        job.result(timeout)
        content = _read(client, job)
        card_of = (record, getattr(trained, "label", ""), evaluations(client, trained.id))
        _unpack(content, folder, card_of)
    finally:
        with contextlib.suppress(UnrollError):
            job.remove() if job.state is JobState.SUCCEEDED else job.cancel()
    return folder


def refuse_what_is_taken(folder: Path) -> None:
    """Raise NotAllowed where the folder holds anything, or is none."""
    try:
        taken = folder.is_symlink() or (folder.exists() and any(folder.iterdir()))
    except NotADirectoryError:
        taken = True
    except OSError as error:
        raise NotAllowed(f"cannot write to {folder}: {error.strerror}") from None
    if taken:
        raise NotAllowed(f"{folder} is there and not empty: name a folder that is not, or clear it")


def _read(client: Exporter, job: JobHandle) -> bytes:
    """Read the archive through Redis, or where it is too large from a store that is shared."""
    with contextlib.suppress(ArtifactError):
        return job.read_file(ARCHIVE_FILE)
    from jobs.artifacts import ArtifactStore  # noqa: PLC0415 - seldom needed

    record, root = job.record, client.store_root
    key = f"jobs/{job.id}/attempt-{record.attempt:04d}/files/{ARCHIVE_FILE}"
    with contextlib.suppress(OSError):
        if (root / "store.id").read_text(encoding="ascii").strip() == record.store:
            return ArtifactStore(root).path(key).read_bytes()
    size = record.result.get("bytes", 0)
    raise ArtifactError(
        f"the model has {size:,} bytes, too many to travel through Redis: export it on a machine "
        "that shares the workers' store (UNROLL_STORE)"
    )


def _unpack(
    content: bytes, folder: Path, card_of: tuple[Job, str, Sequence[Mapping[str, Any]]]
) -> None:
    try:
        refuse_what_is_taken(folder)  # meanwhile, perhaps
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = folder if folder.exists() else folder.parent
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=place))
    except OSError as error:
        raise NotAllowed(f"cannot write to {folder}: {error.strerror}") from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if name not in _NAMES and not _is_source(name):
                    raise ArtifactError(f"the archive holds {name!r}, which no export has")
            archive.extractall(temporary)
        config = json.loads((temporary / "config.json").read_text(encoding="utf-8"))
        (temporary / "card.md").write_text(card(config, *card_of), encoding="utf-8")
        (temporary / "README.md").write_text(_README, encoding="utf-8")
        if place == folder:  # perhaps the mount of a disk, onto which nothing can be renamed
            for each in sorted(temporary.iterdir(), key=lambda each: each.name == _LOADER):
                each.rename(folder / each.name)
            return
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError as error:
        raise NotAllowed(f"cannot write to {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_source(name: str) -> bool:
    parts = name.removeprefix(_BESIDE).split("/")
    return name.startswith(_BESIDE) and len(parts) == 2 and ".." not in parts


def evaluations(client: Exporter, job: str, limit: int = 1000) -> list[Mapping[str, Any]]:
    """Return what evaluations of a job's model came to, the newest first.

    Of several of the same rows, decoded and scored alike, the newest stands.
    """
    found: dict[Any, Mapping[str, Any]] = {}
    for each in client.list(JobState.SUCCEEDED, limit=limit):
        if each.kind == EvaluateSpec.kind and each.spec.get("job") == job:
            known = [each.result.get(name) for name in _ALIKE]
            key = json.dumps(known, sort_keys=True) if all(known[:2]) else each.id
            given = {"split": each.spec.get("split", "test"), "given": each.spec.get("data", {})}
            found.setdefault(key, {**given, **each.result})
    return [*found.values()]


def card(
    config: Mapping[str, Any], record: Job, label: str, found: Sequence[Mapping[str, Any]]
) -> str:
    """Return the model's card as Markdown."""
    data = record.spec["data"]
    title = label or record.spec.get("name") or record.id
    ended = time.strftime("%Y-%m-%d", time.gmtime(record.ended))
    lines = [
        f"# {title}",
        "",
        f"`{config['model']}` on `{config['data']['name']}`, trained by job {record.id}, {ended}.",
        *_section("Data", {key: value for key, value in data.items() if key != "root"}),
        *_licence(config.get("licence", "")),
        *_section("Metrics of the training", _metrics(record.result)),
    ]
    for each in found:
        lines += _section(f"Evaluation on {_set(each)}", _evaluation(each))
    lines += _section("Model", config["hyper_parameters"])
    lines += _section("Training", {**config["trainer"], "seed": config["seed"]})
    lines += _section("Versions", config["versions"])
    return "\n".join(map(printable, lines)) + "\n"


def _section(title: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    if not values:
        yield "Not stated."
    for name, value in sorted(values.items()):
        shown = f"{value:.4f}" if isinstance(value, float) and "/" in name else value
        yield f"- {name}: {shown}"


def _metrics(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in result.items() if not isinstance(value, dict | list)}


def _set(found: Mapping[str, Any]) -> str:
    """Return which rows were evaluated: the split, and what of the data was another."""
    given = {key: value for key, value in found.get("given", {}).items() if key != "root"}
    return f"{found['split']} ({_listed(given)})" if given else str(found["split"])


def _evaluation(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return metrics with their intervals, and how they came about."""
    told = dict(_metrics(found))
    for name, (low, high) in found.get("intervals", {}).items():
        told[name] = f"{found[name]:.4f} [{low:.4f}, {high:.4f}]"
    for name in ("decoding", "bootstrap"):
        if found.get(name):
            told[name] = _listed(found[name])
    return told


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _licence(text: str) -> Iterator[str]:
    yield from ("", "## Licence of the data", "")
    yield from text.strip().splitlines() or ["Not stated: no licence lies beside the data."]
