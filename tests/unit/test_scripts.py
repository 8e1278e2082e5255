"""The Lua files: each head declares what its body uses, in a table with modes."""

import re
from importlib import resources

import pytest

from jobs.keys import KEYS
from jobs.store.scripts import load

FOLDER = resources.files("jobs.store") / "lua"
NAMES = sorted(
    file.name.removesuffix(".lua") for file in FOLDER.iterdir() if file.name != "common.lua"
)
SHARED = (FOLDER / "common.lua").read_text()
BLOCK = re.compile(r"(?ms)^local function (\w+)\(.*?^end$|^local function (\w+)\([^\n]*end$")


def body_of(name: str) -> str:
    """Return a transition without its head, and every shared function that it reaches."""
    text = (FOLDER / f"{name}.lua").read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    functions = {match[1] or match[2]: match[0] for match in BLOCK.finditer(SHARED)}
    reached: set[str] = set()
    while True:
        more = {each for each in functions if re.search(rf"\b{each}\(", code)} - reached
        if not more:
            return code
        reached |= more
        code += "\n" + "\n".join(functions[each] for each in sorted(more))


@pytest.mark.parametrize("name", NAMES)
def test_the_head_declares_what_the_body_uses(name: str) -> None:
    source, body = load(name), body_of(name)
    assert {*source.written, *source.read} == set(re.findall(r"\bK\.(\w+)", body))
    unused = set(source.arguments) - set(re.findall(r"\bA\.(\w+)", body)) - {"now"}
    assert unused == set()
    assert set(re.findall(r"\bA\.(\w+)", body)) <= set(source.arguments)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_one_of_the_table(name: str) -> None:
    source = load(name)
    assert {*source.written, *source.read} <= {key.name for key in KEYS}
    assert not set(source.written) & set(source.read)


WRITES = "SET|PERSIST|HSET|HDEL|HINCRBY|INCR|ZADD|ZREM|SADD|SREM|XADD|XTRIM|RPUSH|LTRIM|DEL|UNLINK"


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_is_only_read_is_not_written(name: str) -> None:
    written = re.findall(rf"'(?:{WRITES})', K\.(\w+)", body_of(name))
    assert set(written) <= set(load(name).written)


@pytest.mark.parametrize(
    "name",
    [
        *("create", "wish", "retry", "remove"),
        *("schedule_add", "schedule_hold", "schedule_ask", "schedule_remove"),
        *(each for each in NAMES if "model_" in each),
    ],
)
def test_a_submitter_writes_what_is_asked_and_nothing_else(name: str) -> None:
    groups = {key.name: key.group for key in KEYS}
    assert {groups[key] for key in load(name).written} == {"ask"}


@pytest.mark.parametrize("name", ["read", "why", "workers", "catalog"])
def test_a_looker_writes_nothing(name: str) -> None:
    assert load(name).written == ()


def test_the_files_of_the_transitions_were_found() -> None:
    assert {"create", "acquire", "finish", "model_promote", "schedule_fire"} <= set(NAMES)
