import numpy as np
import pytest

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import (
    BUILT_IN,
    EARLY_ANSWER,
    build_prompts,
    limit_targets,
    select_prompts,
)
from vt_fairseq.errors import UserError


def row(**fields) -> ClipRow:
    return ClipRow(id="clip", video="clip.mp4", **fields)


def test_the_papers_actions_are_built_in_with_the_papers_lengths():
    prompts = build_prompts([])
    assert list(prompts) == ["caption", "classify", "answer"]
    assert prompts["caption"].max_target_tokens == 20
    assert prompts["classify"].max_target_tokens == 12


def test_a_question_stands_beside_the_prompt_that_denotes_the_task_or_in_it():
    asked = row(question="who is it ?", candidates=("tom", "eva"), answer=1)
    answer = BUILT_IN["answer"]
    assert (answer.text_for(asked), answer.question_for(asked)) == ("answer :", "who is it ?")
    assert answer.references(asked) == ("eva",)
    own = build_prompts(["ask=answer:tell {question} now"])["ask"]
    assert (own.text_for(asked), own.question_for(asked)) == ("tell who is it ? now", "")
    assert EARLY_ANSWER.text_for(asked) == "answer : who is it ?"
    assert BUILT_IN["caption"].question_for(asked) == "", "captions answer no question"


def test_users_add_actions_by_a_flag():
    prompts = limit_targets(build_prompts(["verb=verb:name the verb :"]), "verb=3")
    assert prompts["verb"].target(row(verb="cut"), None) == "cut"
    assert prompts["verb"].max_target_tokens == 3


def test_verb_and_noun_together_are_a_target_of_rows_that_have_both():
    action = build_prompts(["action=action:classify :"])["action"]
    assert action.references(row(verb="cut", noun="tomato")) == ("cut tomato",)
    assert action.references(row(verb="cut")) == action.references(row(noun="tomato")) == ()


def test_training_draws_among_the_captions_and_evaluation_takes_the_first():
    caption, captioned = BUILT_IN["caption"], row(captions=("one", "two"))
    assert caption.target(captioned, None) == "one"
    drawn = {caption.target(captioned, np.random.default_rng(i)) for i in range(20)}
    assert drawn == {"one", "two"}
    assert caption.target(row(), None) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_prompts(["verb"]), "NAME=FIELD:PROMPT"),
        (lambda: build_prompts(["verb=speed:how fast :"]), "FIELD one of"),
        (lambda: limit_targets(BUILT_IN, "caption=lots"), "ACTION=NUMBER"),
        (lambda: limit_targets(BUILT_IN, "sing=5"), "'sing'; the actions are caption"),
        (lambda: select_prompts(BUILT_IN, "caption,sing"), "unknown action 'sing'"),
        (lambda: select_prompts(BUILT_IN, ""), "unknown action"),
    ],
)
def test_a_wrong_definition_is_one_line_that_says_what_was_expected(call, message):
    with pytest.raises(UserError, match=message):
        call()
