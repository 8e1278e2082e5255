"""The command line against a real Redis; the worker is played."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from jobs.catalog import Catalog, Entry
from jobs.cli import main
from jobs.connection import connect
from jobs.job import JobState, Reason
from jobs.schema import Parameter
from jobs.store import JobStore

Meanwhile = Callable[[Callable[[], Any]], AbstractContextManager[None]]

SPEC = """
name = "first"
[model]
name = "rnn"
hidden_size = 4
[data]
name = "text"
root = "corpus"
[trainer]
max_epochs = 2
"""
TASKS = frozenset({("tokens", "tokens")})
CATALOG = Catalog(
    {
        "rnn": Entry(
            "rnn",
            "A recurrent model.",
            (Parameter("hidden_size", "int", ge=1, default=8, meaning="width of the state"),),
            TASKS,
        )
    },
    {"text": Entry("text", "Lines.", (Parameter("root", "str"),), TASKS, {"max_epochs": 3})},
)


@dataclass
class Said:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the one JSON value on standard output."""
        return json.loads(self.out)


Unroll = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up a home whose service is an empty database of the session's server."""
    url = f"{redis_server.url}?db=5"
    with connect(url) as connection:
        connection.flushdb()
    monkeypatch.setenv("UNROLL_REDIS_URL", url)
    monkeypatch.setenv("UNROLL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def unroll(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Unroll:
    def run(*arguments: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
        capsys.readouterr()
        status = main(arguments)
        said = capsys.readouterr()
        assert "Traceback (most recent call last)" not in said.err
        return Said(status, said.out, said.err)

    return run


@pytest.fixture
def player(home: Path, hand: Any) -> Iterator[Any]:
    """Return somebody who plays the worker of the command line's service."""
    with connect(os.environ["UNROLL_REDIS_URL"]) as connection:
        yield type(hand)(JobStore(connection))


def test_a_life_of_a_job(unroll: Unroll, player: Any, meanwhile: Meanwhile) -> None:
    submitted = unroll("submit", "spec.toml", "trainer.max_epochs=5", "--priority", "3", "--json")
    assert submitted.status == 0
    job = submitted.json["id"]
    assert submitted.json == {"id": job, "state": "queued", "note": "unchecked"}
    again = unroll("submit", "spec.toml", "--key", "a script takes the id")
    assert unroll("cancel", again.out.removesuffix("\n")).status == 0
    assert again.err == "unchecked: no worker has said what it can build\n"
    assert unroll("why", job).out.count("\n") == 1
    assert "rnn on text" in unroll("ls").out
    assert [each["id"] for each in unroll("ls", "--state", "queued", "--json").json] == [job]
    assert unroll("ls", "--state", "failed", "--json").json == []

    with meanwhile(lambda: player.train(val_bleu=99.5)):
        waited = unroll("wait", job, "--timeout", "20", "--json")
    assert (waited.status, waited.json["state"], waited.json["attempt"]) == (0, "succeeded", 1)
    shown = unroll("show", job[:11], "--json").json
    assert shown["result"] == {"val/bleu": 99.5}
    assert shown["spec"]["trainer"] == {"max_epochs": 5}
    assert shown["priority"] == 3
    shown_text = unroll("show", job).out
    assert "succeeded" in shown_text
    for moment in ("submitted", "started", "ended", "said", "last_ended"):
        assert re.search(rf"(?m)^{moment} +(-|\d{{4}}(-\d\d){{2}} \d\d(:\d\d){{2}})$", shown_text)
    (point,) = unroll("metrics", job, "--json").json
    assert (point["name"], point["value"], point["step"]) == ("val/bleu", 99.5, 10)
    assert "val/bleu" in unroll("metrics", job).out
    assert unroll("metrics", job, "--since", str(point["cursor"]), "--json").json == []

    twin = unroll("clone", job, "seed=2", "--json").json["id"]
    assert unroll("cancel", twin, "--json").json == {"id": twin, "state": "cancelled"}
    assert unroll("wait", twin).status == 1
    assert unroll("retry", twin).status == 0
    assert "has not ended" in unroll("rm", twin).err or unroll("rm", twin).status == 2
    unroll("cancel", twin)
    assert unroll("rm", twin).status == 0
    assert unroll("show", twin).status == 2


def test_the_same_key_gives_the_same_job(unroll: Unroll) -> None:
    first, second = (unroll("submit", "spec.toml", "--key", "k", "--json").json for _ in range(2))
    assert first["id"] == second["id"]


def test_a_spec_may_be_json(unroll: Unroll, home: Path) -> None:
    plain = {"model": {"name": "rnn"}, "data": {"name": "text", "root": "/d"}}
    (home / "spec.json").write_text(json.dumps(plain))
    assert unroll("submit", "spec.json").status == 0


def test_watch_tells_as_lines_where_nobody_sits(
    unroll: Unroll, player: Any, meanwhile: Meanwhile
) -> None:
    with meanwhile(lambda: player.train(val_bleu=99.5)):
        said = unroll("submit", "spec.toml", "--watch")
    assert said.status == 0
    assert "step 10      epoch 1    val/bleu 99.5\n" in said.out
    assert "succeeded after" in said.out
    assert "\x1b" not in said.out


def test_watch_as_json_is_lines_of_points_and_then_the_job(
    unroll: Unroll, player: Any, meanwhile: Meanwhile
) -> None:
    with meanwhile(lambda: player.train(val_bleu=99.5)):
        said = unroll("submit", "spec.toml", "--watch", "--json")
    *points, record = map(json.loads, said.out.splitlines())
    assert [point["name"] for point in points] == ["val/bleu"]
    assert record["state"] == "succeeded"


def test_a_failed_job_is_status_1_and_one_line(unroll: Unroll, player: Any) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    player.fail(Reason.BAD_DATA, "train.de is empty", "Traceback\n  deep inside")
    for verb in ("wait", "watch"):
        said = unroll(verb, job)
        assert said.status == 1
        assert said.err == f"job {job} failed (bad_data): train.de is empty\n"
    shown = unroll("show", job)
    assert shown.status == 0
    assert "deep inside" in shown.out
    (end,) = unroll("show", job, "--json").json["attempts"]
    assert (end["attempt"], end["worker"], end["reason"]) == (1, "hand", "bad_data")
    assert any(line.split()[:2] == ["1", "hand"] for line in shown.out.splitlines())


def test_a_wait_that_runs_out_is_status_4(unroll: Unroll) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    said = unroll("wait", job, "--timeout", "0.05")
    assert said.status == 4
    assert "still queued" in said.err


def test_logs_follow_and_tail(unroll: Unroll, player: Any) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    lease = player.take()
    player.store.report(lease, lines=[f"line {n}\x1b[31m" for n in range(5)])
    assert unroll("logs", job, "--tail", "2").out == "line 3[31m\nline 4[31m\n"
    assert unroll("logs", job, "--json").json[0] == "line 0\x1b[31m"
    player.store.finish(lease, Reason.SUCCEEDED)
    said = unroll("logs", job, "--follow", "--tail", "1", "--json")
    assert [json.loads(line) for line in said.out.splitlines()] == ["line 4\x1b[31m"]


def test_the_catalogue_is_explained(unroll: Unroll, player: Any) -> None:
    player.offer(CATALOG)
    assert "A recurrent model." in unroll("catalog").out
    said = unroll("catalog", "rnn").out
    assert all(word in said for word in ("hidden_size", "int, at least 1", "8", "width of the"))
    assert "trainer.max_epochs = 3" in unroll("catalog", "text").out
    assert unroll("catalog", "--json").json == CATALOG.to_dict()
    trainer = unroll("catalog", "trainer").out
    assert all(word in trainer for word in ("[trainer]", "clip", "or none", "1.0", "gradient's"))
    assert unroll("catalog", "resources", "--json").json[0]["name"] == "queue"
    wrong = unroll("catalog", "rn")
    assert (wrong.status, wrong.err) == (
        2,
        "unroll: the catalogue has no 'rn'; did you mean 'rnn'?\n",
    )


def test_a_list_leaves_out_large_specs_and_not_their_jobs(unroll: Unroll) -> None:
    job = unroll("submit", "spec.toml", f"data.root=/{'x' * 70_000}", "--json").json["id"]
    said = unroll("ls")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[1].split()[:3] == [job, "queued", "train"]


def test_workers_are_listed(unroll: Unroll, player: Any) -> None:
    (worker,) = unroll("workers", "--json").json
    assert (worker["id"], worker["slots"], worker["queues"]) == ("hand", 4, ["default"])
    assert "hand" in unroll("workers").out


def test_evaluate_prints_scores(unroll: Unroll, player: Any, meanwhile: Meanwhile) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    player.train()
    with meanwhile(lambda: player.train(test_bleu=31.5)):
        said = unroll("evaluate", job, "data.root=other", "--json")
    assert said.json["test/bleu"] == 31.5
    assert unroll("show", said.json["id"], "--json").json["spec"]["data"] == {"root": "other"}
    queued = unroll("evaluate", job, "--no-wait", "--json").json["id"]
    assert unroll("show", queued, "--json").json["state"] == "queued"
    assert "data.key=value" in unroll("evaluate", job, "model.x=1").err


def test_who_waits_long_is_told_what_for(
    unroll: Unroll, player: Any, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.verbs.using._SILENCE", 0.0)
    job = unroll("submit", "spec.toml", "--json").json["id"]
    player.train()
    with meanwhile(lambda: player.train(test_bleu=31.5)):
        said = unroll("evaluate", job, "--json")
    assert said.json["test/bleu"] == 31.5
    assert said.err.startswith(f"waiting for job {said.json['id']}: ")
    assert said.err.count("\n") == 1
    with meanwhile(lambda: player.fail(Reason.USER_ERROR, "it reads no lines")):
        said = unroll("export", job, "folder")
    assert said.status == 1
    assert said.err.startswith("waiting for job ")


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_who_interrupts_a_wait_is_told_what_goes_on_and_how_to_end_it(
    unroll: Unroll, player: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    trained = []
    for _ in range(1 + (verb == "compare")):
        trained.append(unroll("submit", "spec.toml", "--json").json["id"])
        player.train()
    monkeypatch.setattr("jobs.handle.JobHandle.wait", interrupt)
    said = unroll(verb, *trained)
    queued = [each.id for each in reversed(player.store.list(JobState.QUEUED))]
    assert (said.status, len(queued)) == (130, len(trained))
    if verb == "evaluate":
        (one,) = queued
        expected = f"interrupted; job {one} goes on: `unroll cancel {one}` ends it\n"
    else:
        one, other = queued
        ways = f"`unroll cancel {one}` and `unroll cancel {other}`"
        expected = f"interrupted; job {one} and job {other} go on: {ways} end them\n"
    assert said.err == expected


def test_predict_answers_line_by_line(unroll: Unroll, player: Any, meanwhile: Meanwhile) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    player.train()
    with meanwhile(lambda: player.answer(str.upper)):
        said = unroll("predict", job, stdin="zwei\r\n\nhünde".encode())
    assert (said.status, said.out) == (0, "ZWEI\n\nHÜNDE\n")
    with meanwhile(lambda: player.answer(str.upper)):
        said = unroll("predict", job, "--json", "--beam", "3", stdin=b"a\n")
    assert said.json == {"text": "A", "score": -0.5}
    with meanwhile(lambda: player.answer(str.upper)):
        said = unroll("predict", job, "--n-best", "2", stdin=b"a\nb\n")
    assert said.out == "1\t-0.5000\tA\n2\t-0.5000\tB\n"
    with meanwhile(lambda: player.answer(str.upper)):
        said = unroll("predict", job, "--json", "--n-best", "1", "--sample", stdin=b"a\n")
    assert said.json == [{"text": "A", "score": -0.5}]
    refused = unroll("predict", job, "--top-k", "3", stdin=b"a\n")
    assert (refused.status, refused.err) == (2, "unroll: [search]: top_k=3 needs sample=true\n")
    assert unroll("predict", job).out == ""
    said = unroll("predict", job, stdin=b"fine\n\xff\n")
    assert (said.status, said.err) == (
        2,
        "unroll: line 2 of the input is not UTF-8: invalid start byte\n",
    )


def test_generate_tells_the_job_how_to_draw(
    unroll: Unroll, player: Any, meanwhile: Meanwhile
) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    player.train()
    assert unroll("models", "register", "bard", job).status == 0

    def work() -> None:
        lease = player.take()
        spec = player.store.get(lease.job).spec
        assert (spec["kind"], spec["job"]) == ("generate", job)
        told = [spec[name] for name in ("prompt", "length", "temperature", "top_k", "seed")]
        assert told == ["To be", 9, 0.5, 3, 7]
        found = [[{"text": "To be\x1b or\nnot", "score": -1.0}]]
        player.store.put_file(lease, "predictions.json", json.dumps({"lines": found}).encode())
        player.store.finish(lease, Reason.SUCCEEDED)

    options = ["--prompt", "To be", "--length", "9", "--temperature", "0.5", "--top-k", "3"]
    with meanwhile(work):
        said = unroll("generate", "bard@1", *options, "--seed", "7")
    assert (said.status, said.out) == (0, "To be or\nnot\n")
    refused = unroll("generate", job, "--top-p", "2")
    assert refused.status == 2
    assert "top_p" in refused.err


def test_generate_brings_frames(
    unroll: Unroll, player: Any, meanwhile: Meanwhile, home: Path
) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    player.train()
    frames = [[1.0, 0.0], [0.0, 0.0]]
    answer = {"text": "1 0\n0 0", "score": -1.0, "values": {"frames": frames}}

    def answered(*options: str, answer: dict[str, Any] = answer) -> Any:
        def work() -> None:
            lease = player.take()
            content = json.dumps({"lines": [[answer]]}).encode()
            player.store.put_file(lease, "predictions.json", content)
            player.store.put_file(lease, "generated.npy", b"as NumPy saves it")
            player.store.finish(lease, Reason.SUCCEEDED)

        with meanwhile(work):
            return unroll("generate", job, *options)

    said = answered("--frames", "roll.npy")
    assert (said.status, said.out) == (0, "1 0\n0 0\n")
    assert (home / "roll.npy").read_bytes() == b"as NumPy saves it"
    said = answered("--prompt", "a.npy", "--json")
    assert said.json == {"prompt": "a.npy", "frames": frames, "score": -1.0}
    said = answered("--frames", "/nowhere/roll.npy")
    assert said.err == "unroll: cannot write to /nowhere/roll.npy: No such file or directory\n"
    said = answered("--frames", "roll.npy", answer={"text": "words", "score": -1.0})
    assert said.err == "unroll: this model writes text and no frames: leave out --frames\n"


def test_predict_brings_the_attention(
    unroll: Unroll, player: Any, meanwhile: Meanwhile, home: Path
) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    player.train()

    def work() -> None:
        lease = player.take()
        assert player.store.get(lease.job).spec["attention"] is True
        found = [[{"text": "b", "score": -1.0}]] * len(player.store.get(lease.job).spec["lines"])
        player.store.put_file(lease, "predictions.json", json.dumps({"lines": found}).encode())
        player.store.put_file(lease, "attention-0000.png", b"picture")
        player.store.put_file(lease, "attention-0000.json", b"{}")
        player.store.finish(lease, Reason.SUCCEEDED)

    with meanwhile(work):
        said = unroll("predict", job, "--attention", "pictures/deep", stdin=b"a\n")
    assert said.out == "b\n"
    assert (home / "pictures/deep/attention-0000.png").read_bytes() == b"picture"
    assert (home / "pictures/deep/attention-0000.json").exists()
    with meanwhile(work):
        said = unroll("predict", job, "--attention", "pictures", stdin=b"a\nb\n")
    assert said.out == "b\nb\n", "answers first"
    assert said.err.startswith("unroll: the attention of line 2 is too large to be carried"), said
    (home / "shut/attention-0000.png").mkdir(parents=True)
    with meanwhile(work):
        said = unroll("predict", job, "--attention", "shut", stdin=b"a\n")
    assert said.err == "unroll: cannot write to shut/attention-0000.png: Is a directory\n"
    refused = unroll("predict", job, "--attention", "spec.toml/sub", stdin=b"a\n")
    assert (refused.status, "cannot write to spec.toml/sub" in refused.err) == (2, True)


@pytest.mark.parametrize(
    "verb",
    [
        *(
            "models show",
            "models history",
            "sweep show",
            "sweep cancel",
            "notify rm",
            "notify test",
        ),
        *("evaluate --no-wait", "catalog --queue", "show", "schedule show"),
    ],
)
def test_a_word_that_is_no_text_is_refused(unroll: Unroll, verb: str) -> None:
    said = unroll(*verb.split(), "\udc80")  # as Python reads the byte 0x80 of an argument
    assert said.status == 2, said.err


def test_going_on_from_another_job_needs_no_file(unroll: Unroll, player: Any) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    waits = unroll("submit", "--resume-from", job, "--json").json
    assert waits["state"] == "blocked"
    assert unroll("cancel", waits["id"]).status == 0
    player.train()
    said = unroll("submit", "--resume-from", job[:11], "trainer.max_epochs=20", "--json")
    written = unroll("show", said.json["id"], "--json").json["spec"]
    assert written["resume_from"] == job
    assert written["trainer"] == {"max_epochs": 20}
    again = unroll("submit", "spec.toml", "seed=5", "--resume-from", job, "--json").json["id"]
    assert unroll("show", again, "--json").json["spec"]["seed"] == 5


@pytest.mark.parametrize(
    ("arguments", "root"),
    [
        (["specs/spec.toml"], "specs/corpus"),
        (["specs/spec.toml", "data.root=mine"], "mine"),
        (["specs/spec.toml", "data.root=/mine"], "/mine"),
    ],
)
def test_a_root_is_relative_to_who_wrote_it(
    unroll: Unroll, home: Path, arguments: list[str], root: str
) -> None:
    (home / "address").write_text(os.environ["UNROLL_REDIS_URL"])
    (home / "specs").mkdir()
    (home / "specs" / "spec.toml").write_text(SPEC)
    job = unroll("submit", *arguments, "--json").json["id"]
    assert unroll("show", job, "--json").json["spec"]["data"]["root"] == str(home / root)


BAD_SPECS: dict[str, tuple[bytes, str]] = {
    "no TOML": (b"[model", "is no TOML"),
    "not UTF-8": (b'name = "\xff"', "is no TOML"),
    "10 MB": (b"#" * 10_000_000, "is larger than a spec can be (1,000,000 bytes)"),
    "empty": (b"", "needs a section [model]"),
    "no name": (b"[model]\nx = 1\n[data]\nname = 'text'", "[model] needs a name"),
    "misspelt key": (SPEC.replace("name = ", "nmae = ", 1).encode(), "did you mean 'name'?"),
    "unknown section": (SPEC.encode() + b"[trainr]\nx = 1", "did you mean 'trainer'?"),
    "misspelt option": (SPEC.replace("max_epochs", "max_epoch").encode(), "mean 'max_epochs'?"),
    "ill-typed option": (SPEC.replace("= 2", "= 'two'").encode(), "must be int, at least 1"),
    "misspelt parameter": (
        SPEC.replace("hidden_size", "hiden_size").encode(),
        "rnn takes no 'hiden_size'; did you mean 'hidden_size'?",
    ),
    "ill-typed parameter": (SPEC.replace("= 4", "= 4.5").encode(), "must be int, at least 1"),
    "unknown model": (SPEC.replace('"rnn"', '"rn"').encode(), "did you mean 'rnn'?"),
    "unknown data": (SPEC.replace('"text"', '"txet"').encode(), "did you mean 'text'?"),
    "NUL in a name": (SPEC.replace('"rnn"', r'"r\u0000n"').encode(), r"'r\x00n'"),
    "escape in a name": (SPEC.replace("first", r"\u001b[2J").encode(), "cannot be printed"),
    "infinity": (SPEC.encode() + b"lr = inf", "must be float, above 0, not inf"),
    "unknown job to wait for": (b"after = ['1zz']\n" + SPEC.encode(), "no job has the id '1zz'"),
}


@pytest.mark.parametrize("name", BAD_SPECS)
def test_a_bad_spec_is_one_line_and_queues_nothing(
    unroll: Unroll, player: Any, home: Path, name: str
) -> None:
    player.offer(CATALOG)
    content, message = BAD_SPECS[name]
    (home / "bad.toml").write_bytes(content)
    said = unroll("submit", "bad.toml")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("unroll: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert unroll("ls", "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit"], "needs a spec file"),
        (["submit", "missing.toml"], "cannot read missing.toml: No such file or directory"),
        (["submit", "."], "cannot read .: Is a directory"),
        (["submit", "bad\0name"], "null byte"),
        (["submit", "spec.toml", "seed"], "write section.key=value"),
        (["submit", "spec.toml", "seed=-1"], "'seed' must be int"),
        (["submit", "spec.toml", "name.x=1"], "is not a section"),
        (["submit", "spec.toml", "--key", "a\0b"], "cannot be printed"),
        (["submit", "spec.toml", "--key", "k" * 1000], "1 to 200 characters"),
        (["submit", "spec.toml", "--priority", "1000"], "-100<=x<=100"),
        (["submit", "--resume-from", "nothing"], "no job has the id 'nothing'"),
        (["show", "nothing"], "no job has the id 'nothing'"),
        (["show", ""], "no job has the id ''"),
        (["show", "a\0b"], "no job has the id"),
        (["show", "ü" * 5000], "no job has the id"),
        (["show"], "Missing argument 'ID'"),
        (["predict", "nothing"], "no job has the id 'nothing'"),
        (["wait", "nothing", "--timeout", "soon"], "'soon' is not a valid float"),
        (["wait", "nothing", "--timeout", "nan"], "'nan' is not a number"),
        (["ls", "--state", "runing"], "is not one of"),
        (["subimt", "spec.toml"], "no verb 'subimt'; did you mean 'submit'?"),
        (["ls", "--jason"], "No such option"),
        (["catalog"], "start one with `unroll worker`"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    unroll: Unroll, arguments: list[str], message: str
) -> None:
    said = unroll(*arguments)
    assert said.status == 2
    assert message in said.err
    assert said.err.count("\n") == 1


def test_a_wrong_password_is_one_line_without_it(
    unroll: Unroll, make_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server(password="right")
    monkeypatch.setenv("UNROLL_REDIS_URL", f"{server.url}?password=wrong-one")
    said = unroll("ls")
    assert said.status == 3
    assert "refuses the password" in said.err
    assert "wrong-one" not in said.err
    assert said.err.count("\n") == 1


def test_nobody_who_reads_the_output_is_no_traceback(unroll: Unroll, player: Any) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    lease = player.take()
    player.store.report(lease, lines=["x" * 1000] * 500)
    command = f"{sys.executable} -m jobs.cli logs {job} | head -c 1; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (ended.stdout, ended.stderr) == ("x141\n", "")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let children hear Ctrl-C, also where these tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_is_no_traceback(unroll: Unroll) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    command = [sys.executable, "-m", "jobs.cli", "watch", job]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline().startswith(job.encode())
        watching.send_signal(signal.SIGINT)
        assert watching.stderr.read() == b""
    assert watching.returncode == 130


def test_a_queued_job_is_set_aside_and_put_back(unroll: Unroll) -> None:
    job = unroll("submit", "spec.toml", "--json").json["id"]
    assert unroll("pause", job).out == f"{job} paused\n"
    assert unroll("pause", job, "--json").json == {"id": job, "state": "paused"}
    assert unroll("resume", job).out == f"{job} queued\n"
    refused = unroll("resume", job)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "only a paused job can be resumed" in refused.err
