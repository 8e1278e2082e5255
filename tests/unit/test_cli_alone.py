"""The command line where there is no service."""

import io
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from jobs import cli
from jobs.verbs.common import plain, print_json, print_table
from jobs.verbs.results import print_result
from jobs.verbs.using import decoded
from jobs.wording import duration, printable

VERBS = (
    *("up", "down", "worker", "workers", "catalog", "submit", "ls", "show", "why", "watch"),
    *(
        "metrics",
        "logs",
        "wait",
        "cancel",
        "pause",
        "resume",
        "retry",
        "clone",
        "rm",
        "evaluate",
        "predict",
        "generate",
        "export",
        "demo",
        "compare",
        "leaderboard",
    ),
)
#: Verbs that hold others.
GROUPS = {
    "models": ("ls", "show", "register", "promote", "rollback", "release", "history"),
    "schedule": ("add", "ls", "show", "pause", "resume", "run-now", "rm", "history"),
    "notify": ("add", "ls", "rm", "test"),
    "sweep": ("run", "ls", "show", "cancel"),
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up a home without a service."""
    monkeypatch.setenv("UNROLL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("UNROLL_REDIS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_verbs_are_those_of_the_manual() -> None:
    assert set(cli.cli.commands) == {*VERBS, *GROUPS}
    for name, verbs in GROUPS.items():
        group = cli.cli.commands[name]
        assert isinstance(group, click.Group)
        assert set(group.commands) == set(verbs)


@pytest.mark.parametrize(
    "verb",
    [*((verb,) for verb in VERBS), *((name, each) for name in GROUPS for each in GROUPS[name])],
    ids=" ".join,
)
def test_every_verb_explains_itself_and_takes_json(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--json" in said
    assert "--home" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["workers", "--json"],
        ["submit", "spec.toml"],
        *([verb, "some-id"] for verb in ("show", "why", "watch", "metrics", "logs", "wait")),
        *([verb, "some-id"] for verb in ("cancel", "retry", "clone", "rm", "evaluate", "predict")),
        ["worker"],
        ["models", "ls"],
        ["compare", "a", "b"],
        ["leaderboard", "dates"],
        ["models", "rollback", "de-en"],
    ],
)
def test_no_service_is_status_3_and_the_mend(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "start one with `unroll up`" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("redis://127.0.0.1:1/0", 3, "no service answers"),
        ("unix:///no/such/socket", 3, "no service answers"),
        ("redis://:secret@127.0.0.1:1/0", 3, "no service answers"),
        ("http://somewhere", 2, "is no address of a Redis"),
    ],
)
def test_an_address_where_nobody_is(
    url: str,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNROLL_REDIS_URL", url)
    assert cli.main(["ls"]) == status
    said = capsys.readouterr().err
    assert message in said
    assert "secret" not in said
    assert said.count("\n") == 1


@pytest.mark.skipif(find_spec("torch") is None, reason="a client says first what to install")
def test_an_unwritable_home_is_one_line(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (nowhere / "file").touch()
    assert cli.main(["up", "--home", str(nowhere / "file" / "home")]) == 2
    said = capsys.readouterr().err
    assert "cannot write to the home" in said
    assert said.count("\n") == 1


def test_nothing_to_stop_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["down"]) == 0
    assert "no service runs in" in capsys.readouterr().out


def test_a_demo_that_could_not_write_its_picture_does_not_begin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["demo", "--attention", "no/such/folder/a.png"]) == 2
    said = capsys.readouterr()
    assert (said.out, "cannot write no/such/folder/a.png" in said.err) == ("", True)


def test_a_fault_of_ours_is_one_line_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(**_: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("jobs.verbs.looking.Client", fault)
    assert cli.main(["ls"]) == 70
    assert capsys.readouterr().err == (
        "unroll: a fault of ours: ZeroDivisionError: by zero (UNROLL_DEBUG=1 shows where)\n"
    )
    monkeypatch.setenv("UNROLL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["ls"])


@pytest.mark.parametrize(
    ("option", "names", "sentence"),
    [
        ("--queues", "a b", "'a b' cannot be a queue"),
        ("--queues", ",", "--queues takes names separated by commas"),
        ("--labels", " ", "--labels takes names separated by commas"),
        ("--labels", "a,\x1b[2J", "cannot be printed"),
        ("--name", "w\n1", "cannot be printed"),
    ],
)
def test_a_worker_takes_only_names_that_a_job_can_ask_for(
    option: str, names: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["worker", option, names]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert sentence in said.err


def test_what_is_no_text_can_be_printed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="utf-8")
    monkeypatch.setattr("sys.stdout", out)
    assert cli.main(["--version"]) == 0
    print_json("train.\udcff")
    out.flush()
    assert written.getvalue().endswith(b'"train.\\udcff"\n')


def test_no_verb_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "submit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0s"), (59.9, "59s"), (60, "1m 00s"), (3661, "1h 01m"), (90000, "1d 01h")],
)
def test_a_length_of_time_has_two_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_what_json_cannot_say_is_null() -> None:
    values = {"a": float("nan"), "b": [float("inf"), 1.5], "c": frozenset({"y", "x"})}
    assert plain(values) == {"a": None, "b": [None, 1.5], "c": ["x", "y"]}


def test_tables_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["A", "LONG"], [["x" * 200, "\x1b[2J"], ["y", "z"]])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "A" + " " * 201 + "LONG"
    assert first == "x" * 200 + "  [2J"
    assert second == "y" + " " * 201 + "z"


def test_what_acts_on_a_terminal_is_left_out() -> None:
    assert printable("a\tb\r\x1b]0;title\x07ü 日") == "a\tb]0;titleü 日"


def test_lines_end_only_at_line_breaks() -> None:
    assert list(decoded(io.BytesIO("a\u2028b\r\n\x0bc\n\nd".encode()))) == [
        "a\u2028b",
        "\x0bc",
        "",
        "d",
    ]
    assert list(decoded(io.BytesIO())) == []


@pytest.mark.parametrize("override", ["model.x=1", "data=3", "queue=gpu", "data"])
def test_evaluate_takes_settings_of_the_data_alone(
    override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "some-id", override]) == 2
    assert f"evaluate takes data.key=value, not {override!r}" in capsys.readouterr().err


def test_a_result_shows_each_metric_with_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(
        {
            "test/bleu": 31.25,
            "test/loss": 2.0,
            "intervals": {"test/bleu": [30.0, 32.5]},
            "decoding": {"beam": 5, "sampling": None},
            "row_metrics": ["bleu"],
            "signatures": {},
            "bleu_signature": "tok:13a\x1b[2J",
        }
    )
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["bleu_signature", "tok:13a[2J"],
        ["decoding", "beam=5,", "sampling=None"],
        ["row_metrics", "bleu"],
        ["signatures", "-"],
        ["test/bleu", "31.2500", "[30.0000,", "32.5000]"],
        ["test/loss", "2.0000"],
    ]
