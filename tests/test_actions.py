import numpy as np
import pytest

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import build_actions, select_actions
from vt_fairseq.errors import UserError


def row(**fields) -> ClipRow:
    empty = dict.fromkeys(("start", "end", "label", "verb", "noun", "question", "answer"))
    rest = {"captions": (), "candidates": (), "context": None, "group": None}
    return ClipRow(id="clip", video="clip.mp4", **{**empty, **rest, **fields})


def test_the_papers_actions_are_built_in_with_the_papers_lengths():
    table = build_actions([], "caption=20,classify=12")
    assert list(table) == ["caption", "classify", "answer"]
    assert table["caption"].max_target_tokens == 20
    assert table["classify"].max_target_tokens == 12


def test_a_question_stands_in_the_prompt():
    answer = build_actions([], "")["answer"]
    asked = row(question="who is it ?", candidates=("tom", "eva"), answer=1)
    assert answer.prompt_for(asked) == "answer : who is it ?"
    assert answer.references(asked) == ("eva",)


def test_users_add_actions_by_a_flag():
    table = build_actions(["verb=verb:name the verb :"], "verb=3")
    assert table["verb"].target(row(verb="cut"), None) == "cut"
    assert table["verb"].max_target_tokens == 3


def test_verb_and_noun_together_are_a_target_of_rows_that_have_both():
    action = build_actions(["action=action:classify :"], "")["action"]
    assert action.references(row(verb="cut", noun="tomato")) == ("cut tomato",)
    assert action.references(row(verb="cut")) == action.references(row(noun="tomato")) == ()


def test_training_draws_among_the_captions_and_evaluation_takes_the_first():
    caption = build_actions([], "")["caption"]
    captioned = row(captions=("one", "two"))
    assert caption.target(captioned, None) == "one"
    drawn = {caption.target(captioned, np.random.default_rng(i)) for i in range(20)}
    assert drawn == {"one", "two"}
    assert caption.target(row(), None) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_actions(["verb"], ""), "NAME=FIELD:PROMPT"),
        (lambda: build_actions(["verb=speed:how fast :"], ""), "FIELD one of"),
        (lambda: build_actions([], "caption=lots"), "ACTION=NUMBER"),
        (lambda: build_actions([], "sing=5"), "names 'sing'"),
        (lambda: select_actions(build_actions([], ""), "caption,sing"), "unknown action 'sing'"),
        (lambda: select_actions(build_actions([], ""), ""), "unknown action"),
    ],
)
def test_a_wrong_definition_is_one_line_that_says_what_was_expected(call, message):
    with pytest.raises(UserError, match=message):
        call()
