"""What a person says about the search on the command line is what the model does."""

import dataclasses
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jobs.errors import SpecError
from jobs.spec import SearchOptions
from jobs.verbs.searching import search_options, searching
from lightning_modules._decoding import Search
from lightning_modules._sampling import Sampling
from lightning_modules.encoder_decoder import EncoderDecoder
from worker.runner.evaluate import set_search


def read(*arguments: str, n_best: int = 1) -> SearchOptions:
    found: list[SearchOptions] = []

    @click.command()
    @searching
    def verb(**options: Any) -> None:
        found.append(search_options(options, n_best=n_best))
        assert not options

    CliRunner().invoke(verb, arguments, catch_exceptions=False, standalone_mode=False)
    return found[0]


def test_nothing_said_is_the_default() -> None:
    assert read() == SearchOptions()


def test_every_option_arrives() -> None:
    searched = {
        "beam": 4,
        "length_normalisation": 0.5,
        "coverage_penalty": 0.2,
        "min_length": 2,
        "max_length": 9,
        "no_repeat_ngram": 3,
    }
    drawn = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 8}
    flags = [
        [each for name, value in some.items() for each in (f"--{name.replace('_', '-')}", value)]
        for some in (searched, drawn)
    ]
    assert read(*map(str, flags[0])) == SearchOptions(**searched)
    assert read("--sample", *map(str, flags[1])) == SearchOptions(sample=True, **drawn)
    names = {each.name for each in dataclasses.fields(SearchOptions)}
    assert names == {*searched, *drawn, "sample", "n_best"}


def test_a_beam_is_as_wide_as_the_answers_asked_for() -> None:
    assert read(n_best=3).beam == 3
    assert read("--beam", "8", n_best=3).beam == 8
    assert read("--sample", n_best=3) == SearchOptions(sample=True, n_best=3)


def test_samples_and_beams_do_not_mix() -> None:
    with pytest.raises(SpecError, match="sample needs no beam: leave out beam=4"):
        read("--sample", "--beam", "4")
    with pytest.raises(SpecError, match="seed=2 needs sample=true"):
        read("--seed", "2")


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {"beam": 1}),
        (
            {"beam": 4, "n_best": 2, "length_normalisation": 0.5, "coverage_penalty": 0.2},
            {"beam": 4, "n_best": 2, "length_normalisation": 0.5, "coverage_penalty": 0.2},
        ),
        (
            {"min_length": 2, "max_length": 9, "no_repeat_ngram": 3},
            {"min_length": 2, "max_length": 9, "no_repeat_ngram": 3},
        ),
        (
            {"sample": True, "n_best": 5, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "seed": 4},
            {"n_best": 5, "sampling": Sampling(temperature=0.7, top_k=3, top_p=0.9, seed=4)},
        ),
        ({"sample": True}, {"sampling": Sampling()}),
    ],
)
def test_the_model_searches_as_the_spec_says(
    options: dict[str, Any], changes: dict[str, Any]
) -> None:
    dims = {"source_vocabulary_size": 7, "target_vocabulary_size": 7, "shared_vocabulary": True}
    model = EncoderDecoder(hidden_size=2, embedding_size=2, max_length_ratio=3.0, **dims)
    set_search(model, SearchOptions(**options))
    assert model.search == Search(max_length_ratio=3.0, **changes)
