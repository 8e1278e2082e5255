"""Meanings are read, taken out of sentences, put back in, and counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules._errors import DataFormatError
from datamodules._meanings import Meaning, Slot

NOTHING: dict[str, frozenset[str]] = {}
KIDS = {"kidsallowed": frozenset({"kid", "child"})}


def meaning(text: str) -> Meaning:
    return Meaning.parse(text, "here")


def test_an_act_has_slots_with_names_with_kinds_and_without_values() -> None:
    read = meaning("?select(food='sea food';price_range=dont_care; area ;kids allowed=\"no\")")
    assert read == Meaning(
        "?select",
        (
            Slot("food", "sea food"),
            Slot("pricerange", kind="dontcare"),
            Slot("area", kind="?"),
            Slot("kidsallowed", kind="no"),
        ),
    )
    assert meaning(" goodbye() ") == Meaning("goodbye", ())


@pytest.mark.parametrize("text", ["", "hello", "inform(name=x", "a b(c)", "(x=1)"])
def test_what_is_no_meaning_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(
        DataFormatError, match=r"^here holds .* where a meaning must stand, such as"
    ):
        meaning(text)


def test_a_slot_needs_a_name_and_behind_its_sign_a_value() -> None:
    with pytest.raises(DataFormatError, match="here holds the slot '=x'"):
        meaning("inform(=x)")
    with pytest.raises(DataFormatError, match="here gives the slot 'food' no value"):
        meaning("inform(food='')")


def test_the_same_but_for_names_is_the_same() -> None:
    one = meaning("inform(name='a b';food=thai;food=dont_care;kidsallowed=yes)")
    assert one.features() == ("inform", "food=1", "food=dontcare", "kidsallowed=yes", "name=1")
    assert (
        one.features()
        == meaning("inform(kidsallowed='true';food=x;name=y;food=dontcare)").features()
    )
    twice = meaning("inform(name=a;name=b)")
    assert twice.features() == ("inform", "name=1", "name=2")


def test_names_are_taken_out_as_whole_words_the_longest_first_and_once() -> None:
    read = meaning("inform(name='bar crudo';near=bar;food=crudo;kidsallowed=no)")
    assert read.delexicalise("Bar Crudo 's bar near bar serves no crudo crudos") == (
        "[name] 's [near] near bar serves no [food] crudos"
    )
    assert read.delexicalise("nothing of it") == "nothing of it"


@pytest.mark.parametrize("said", ["a b or c", "c or a b", "a b and c", "c and a b"])
def test_several_values_in_one_are_found_in_any_order(said: str) -> None:
    read = meaning("inform(area='a b or c')")
    assert read.delexicalise(f"in {said} .") == "in [area] ."


def test_names_are_put_in_by_the_order_of_the_meaning() -> None:
    read = meaning("?select(food=thai;food='sea food';area=no)")
    assert read.relexicalise("[food] or [food] ? [food] ! [area] [x]") == (
        "thai or sea food ? sea food ! [area] [x]"
    )


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("[name] has [food] for kid -s", 0),
        ("[name] has [food] for kid -s and a child", 0),
        ("[name] has [food]", 1),
        ("[name] has [food] [food] for a Child", 1),
        ("[name] is [near] you", 3),
        ("", 3),
    ],
)
def test_slots_that_are_missing_or_too_many_are_counted(sentence: str, wrong: int) -> None:
    read = meaning("inform(name=a;food=b;kidsallowed=no;area)")
    assert read.errors(sentence, KIDS) == (wrong, 3)


def test_a_slot_without_a_name_counts_only_where_words_for_it_are_known() -> None:
    read = meaning("inform(name=a;kidsallowed=no)")
    assert read.errors("[name]", NOTHING) == (0, 1)
    assert read.errors("[name]", KIDS) == (1, 2)
    assert meaning("?request(food)").errors("what food ?", KIDS) == (0, 0)
    assert meaning("?request(food)").errors("what food for a kid ?", KIDS) == (1, 0)


words = st.sampled_from(["a", "b", "c", "d"])
names = st.lists(words, min_size=1, max_size=3).map(" ".join)


@given(values=st.lists(st.tuples(st.sampled_from(["x", "y"]), names), max_size=3), data=st.data())
def test_a_sentence_that_is_filled_again_is_as_before(
    values: list[tuple[str, str]], data: st.DataObject
) -> None:
    read = Meaning("inform", tuple(Slot(name, value) for name, value in values))
    sentence = " ".join(data.draw(st.lists(st.one_of(words, names), max_size=5)))
    outlined = read.delexicalise(sentence)
    if all(outlined.count(slot.token) <= 1 for slot in read.slots):
        names_of = [slot.name for slot in read.slots]
        if len(set(names_of)) == len(names_of):
            assert read.relexicalise(outlined) == sentence
    wrong, wanted = read.errors(outlined, NOTHING)
    assert wanted == len(values)
    assert wrong == len(values) - sum(outlined.count(f"[{name}]") for name in ("x", "y"))
