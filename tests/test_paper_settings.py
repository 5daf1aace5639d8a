"""docs/paper_settings.md: what the recipes' commands have, and no departure without a word."""

from dataclasses import fields

import pytest

from tests import paper_settings
from tests.paper_settings import BEGIN, END, KINDS, NOT_SAID, PAGE, departures, kind, tables
from tests.recipes import EXAMPLES
from vt_fairseq.models.architectures import VideoTranslateConfig
from vt_fairseq.task_config import VideoTranslateTaskConfig

# Options that change nothing of the method: files, devices, what is logged, what is only for tests.
NO_SETTINGS = {
    *("data", "video_root", "follow_links", "max_bad_fraction", "test_window", "blank_video"),
    *("action", "define_action", "max_source_tokens", "eval_bleu", "eval_bleu_beam"),
    *("eval_bleu_max_len", "blank_check", "seed", "cpu", "train_subset", "results_path", "t5_dims"),
    *("context", "given", "checkpoint_activations", "checkpoint_video_stages"),
    *("cache_clips", "eval_bleu_print_samples"),
    *("compile", "cuda_graphs", "required_seq_len_multiple"),
}
TEXT = {"reuse_batch", "text_input", "mask_amount", "text_dropout", "test_text"}
TEXT |= {"test_mask_tokens", "max_target_tokens", "actions"}
HEADS = {"heads", "heads_on", "head_lr_scale"}
WITHOUT = dict(zip(KINDS, (HEADS, HEADS, TEXT, TEXT | {"no_context"}), strict=True))


@pytest.fixture(scope="module")
def found() -> dict:
    return paper_settings.recipes_trainings()


def test_the_page_has_what_the_recipes_commands_have(found):
    text = PAGE.read_text()
    made = text.partition(BEGIN)[2].partition(END)[0]
    assert made == f"{tables(found)}\n", "run python -m tests.paper_settings and look at the page"


@pytest.mark.parametrize("title", KINDS)
def test_every_departure_from_the_paper_has_a_reason_and_a_comment_in_the_recipe(found, title):
    of_kind = {name: training for name, training in found.items() if kind(training) == title}
    assert of_kind
    comments = " ".join(
        line.lstrip("# ")
        for script in (EXAMPLES / "recipe.sh", *EXAMPLES.glob("*/run.sh"))
        for line in script.read_text().splitlines()
        if line.startswith("#")
    )
    for setting in KINDS[title]:
        if departures(setting, of_kind):
            assert setting.why and setting.comment, setting.name
            assert setting.comment in comments, setting.name
        elif NOT_SAID not in setting.options.values():
            said = {value for values in setting.of.values() for value in values.values()}
            assert not setting.why or NOT_SAID in said, f"{setting.name} does not depart"


@pytest.mark.parametrize("title", KINDS)
def test_every_option_of_task_and_model_stands_in_the_table(title):
    known = {f.name for config in (VideoTranslateTaskConfig, VideoTranslateConfig)
             for f in fields(config)} - {"_name", "update_freq"}  # fmt: skip
    shown = {option for setting in KINDS[title] for option in setting.options}
    assert known - shown == (NO_SETTINGS & known) | WITHOUT[title]


def test_the_papers_configuration_departs_in_nothing(found):
    papers = {"pretrain_howto100m_paper": found["pretrain_howto100m_paper"]}
    assert not any(departures(setting, papers) for setting in KINDS["Pretraining"])
    ours = {"pretrain_howto100m": found["pretrain_howto100m"]}
    assert [s.name for s in KINDS["Pretraining"] if departures(s, ours)] == ["text left out"]
