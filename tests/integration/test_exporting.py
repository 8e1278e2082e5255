"""A model leaves in a folder that is whole or not there; its card says what the records know."""

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.client import Client
from jobs.errors import ArtifactError, JobFailed, NotAllowed
from jobs.exporting import card
from jobs.job import Reason
from jobs.spec import Component, TrainSpec
from tests.doubles.disk import small_disk

if TYPE_CHECKING:
    from tests.integration.conftest import Hand

CONFIG: dict[str, Any] = {
    "model": "attention_encoder_decoder",
    "hyper_parameters": {"hidden_size": 12},
    "data": {"name": "parallel_text", "params": {"root": "."}},
    "trainer": {"lr": 0.002},
    "seed": 1,
    "licence": "",
    "versions": {"torch": "2"},
}
Meanwhile = Callable[[Callable[[], Any]], AbstractContextManager[None]]


def archive(*more: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        written.writestr("config.json", json.dumps(CONFIG))
        for name in ("weights.pt", "load.py", "source/datamodules/_base.py", *more):
            written.writestr(name, name)
    return content.getvalue()


@pytest.fixture
def trained(person: Client, hand: "Hand") -> str:
    spec = TrainSpec(model=Component("m"), data=Component("d", {"source": "de"}))
    job = person.submit(spec)
    hand.train(val_bleu=33.3)
    return job.id


def answer(hand: "Hand", content: bytes) -> Callable[[], None]:
    def work() -> None:
        lease = hand.take()
        assert hand.store.get(lease.job).kind == "export"
        hand.store.put_file(lease, "export.zip", content)
        hand.store.finish(lease, Reason.SUCCEEDED)

    return work


def test_a_folder_holds_the_model_and_a_card(
    person: Client, hand: "Hand", trained: str, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "model"
    with meanwhile(answer(hand, archive())):
        assert person.export(trained, target, timeout=30) == target
    names = {str(each.relative_to(target)) for each in target.rglob("*") if each.is_file()}
    assert names == {
        *("weights.pt", "config.json", "load.py", "source/datamodules/_base.py"),
        *("card.md", "README.md"),
    }
    said = (target / "card.md").read_text()
    assert "- val/bleu: 33.3000" in said
    assert "- source: de" in said
    assert "Not stated: no licence lies beside the data." in said
    assert [each.kind for each in person.list()] == ["train"], "the export's record was removed"
    assert [each.name for each in target.parent.iterdir()] == ["model"]


def test_a_card_names_evaluations_with_signature_and_interval(person: Client, trained: str) -> None:
    found = {
        "split": "test",
        "given": {"root": "/home/me", "test": "newest"},
        "test/bleu": 40.0,
        "test/perplexity": 3.5,
        "bleu_signature": "nrefs:1",
        "intervals": {"test/bleu": [39.1, 40.9]},
        "decoding": {"beam": 5},
    }
    said = card(CONFIG | {"licence": "CC BY\n4.0"}, person.get(trained).record, "de-en@3", [found])
    assert said.startswith("# de-en@3\n")
    assert "## Evaluation on test (test=newest)\n\n- bleu_signature: nrefs:1\n" in said
    assert "- decoding: beam=5\n" in said
    assert "- test/bleu: 40.0000 [39.1000, 40.9000]\n" in said
    assert "- test/perplexity: 3.5000\n" in said
    assert "## Licence of the data\n\nCC BY\n4.0\n" in said


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_a_folder_that_is_taken_is_refused_before_anything_is_queued(
    person: Client, trained: str, tmp_path: Path, what: str
) -> None:
    target = tmp_path / "model"
    if what == "file":
        target.write_text("mine")
    elif what == "folder":
        target.mkdir()
        (target / "mine").touch()
    else:
        target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotAllowed, match="is there and not empty"):
        person.export(trained, target)
    assert len(person.list()) == 1


@pytest.mark.parametrize("name", ["../evil", "source/../evil", "source/a/b/c", "/etc/evil"])
def test_an_archive_that_would_write_elsewhere_leaves_nothing(
    person: Client, hand: "Hand", trained: str, meanwhile: Meanwhile, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "model"
    with (
        pytest.raises(ArtifactError, match="which no export has"),
        meanwhile(answer(hand, archive(name))),
    ):
        person.export(trained, target, timeout=30)
    assert not any(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_not_replaced(
    person: Client, hand: "Hand", trained: str, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    """It may be the mount of a disk, or lie where nothing else can be written."""
    with small_disk(tmp_path / "disk", 1) as disk:
        with meanwhile(answer(hand, archive())):
            assert person.export(trained, disk.folder, timeout=30) == disk.folder
        assert {each.name for each in disk.folder.iterdir()} == {
            *("weights.pt", "config.json", "load.py", "source", "card.md", "README.md")
        }
    assert not any((tmp_path / "disk").iterdir()), "it was written to the disk"


def test_a_folder_that_is_filled_meanwhile_is_left_as_it_is(
    person: Client, hand: "Hand", trained: str, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    target = tmp_path / "model"

    def work() -> None:
        target.mkdir()
        (target / "load.py").write_text("mine")
        answer(hand, archive())()

    with pytest.raises(NotAllowed, match="not empty"), meanwhile(work):
        person.export(trained, target, timeout=30)
    assert [each.name for each in tmp_path.rglob("*")] == ["model", "load.py"]
    assert (target / "load.py").read_text() == "mine"


def test_a_failed_export_leaves_nothing_behind(
    person: Client, hand: "Hand", trained: str, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    with (
        pytest.raises(JobFailed, match="no lines"),
        meanwhile(lambda: hand.fail(Reason.USER_ERROR, "it reads no lines")),
    ):
        person.export(trained, tmp_path / "model", timeout=30)
    assert not any(tmp_path.iterdir())


def test_an_archive_that_is_nowhere_to_be_had_says_what_to_do(
    person: Client, hand: "Hand", trained: str, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    def work() -> None:
        lease = hand.take()
        hand.store.finish(lease, Reason.SUCCEEDED, result={"bytes": 50_000_000})

    with pytest.raises(ArtifactError, match=r"50,000,000 bytes.*UNROLL_STORE"), meanwhile(work):
        person.export(trained, tmp_path / "model", timeout=30)
