"""Each option of fairseq-generate does what it says, or is refused in one line.

What a search writes is compared with ``search``, a plain loop over Hugging Face's T5 that decodes
every text anew at every step.
"""

import argparse
import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from fairseq import options
from fairseq.dataclass.configs import (
    CommonEvalConfig,
    DatasetConfig,
    GenerationConfig,
    InteractiveConfig,
)
from fairseq.sequence_scorer import SequenceScorer
from omegaconf import OmegaConf

from tests.commands import PLUGIN, ROOT, run
from tests.test_sequence_generator import generator_of, written
from tests.test_t5 import EOS, NARROW, PAD, UNK, build, build_hf, load_hf, random_ids
from vt_fairseq import plugin  # noqa: F401
from vt_fairseq.errors import UserError
from vt_fairseq.models.checkpoint_config import checked_config
from vt_fairseq.task import VideoTranslateTask
from vt_fairseq.task_config import VideoTranslateTaskConfig
from vt_fairseq.training.changed_options import changed_options
from vt_fairseq.training.generation_options import READ, REFUSED, SCORERS

MAX_LEN = 9
GENERATE = ["data", *PLUGIN, "--path", "model.pt"]


# --- searches -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    """(ours, Hugging Face's) twice, with different weights."""
    pairs = []
    for seed in (0, 1):
        ours, hf = build(NARROW), build_hf(NARROW)
        torch.manual_seed(seed)
        with torch.no_grad():
            hf.shared.weight += 0.3 * seed * torch.randn_like(hf.shared.weight)
        load_hf(ours, hf.state_dict())
        pairs.append((ours, hf))
    return pairs


@pytest.fixture(scope="module")
def source():
    return random_ids(NARROW.vocab_size, 4, 10, 3, seed=30)


@torch.no_grad()
def log_likelihoods(hfs, row: torch.Tensor, texts: list[list[int]], temperature=1.0):
    """Of the next token after each of N texts of one length: (N, V), the models' mean."""
    before = torch.tensor([[PAD, *text] for text in texts])
    probabilities = [
        (
            hf(
                input_ids=row.expand(len(texts), -1),
                attention_mask=row.ne(PAD).expand(len(texts), -1),
                decoder_input_ids=before,
            ).logits[:, -1]
            / temperature
        ).softmax(-1)
        for hf in hfs
    ]
    return torch.stack(probabilities).mean(0).log()


def search(hfs, row, beam, max_len=MAX_LEN, min_len=1, lenpen=1.0, unnormalized=False, **more):
    """[(tokens with eos, score, log-likelihood of each token)] by score: beam search for one row.

    Of the 2 * beam best continuations those that end, among the first ``beam``, are done; the best
    ``beam`` that do not end go on, until ``beam`` are done. At the longest length all end.
    """
    live, done = [([], [])], []
    while live and len(done) < beam:
        length = len(live[0][0])
        found = log_likelihoods(hfs, row, [text for text, _ in live], more.get("temperature", 1.0))
        found[:, UNK] -= more.get("unkpen", 0.0)
        continuations = []
        for (text, steps), likelihoods in zip(live, found.tolist(), strict=True):
            for token, likelihood in enumerate(likelihoods):
                if allowed(token, text, length, max_len, min_len, **more):
                    continuations.append(([*text, token], [*steps, likelihood]))
        continuations.sort(key=lambda one: -sum(one[1]))
        continuations = continuations[: 2 * beam]
        done += [one for one in continuations[:beam] if one[0][-1] == EOS]
        live = [one for one in continuations if one[0][-1] != EOS][:beam]
    scored = [
        (text, sum(steps) / (1 if unnormalized else len(text) ** lenpen), steps)
        for text, steps in done[:beam]
    ]
    return sorted(scored, key=lambda one: -one[1])


def allowed(token, text, length, max_len, min_len, no_repeat=0, prefix=(), **_) -> bool:
    """Whether ``token`` may follow ``text`` of ``length`` tokens."""
    if token == PAD:
        return False
    if length == max_len:
        return token == EOS
    if length < len(prefix):
        return token == prefix[length]
    if token == EOS and length < min_len:
        return False
    whole = [*text, token]
    grams = [tuple(whole[i : i + no_repeat]) for i in range(len(whole) - no_repeat + 1)]
    return not no_repeat or len(set(grams)) == len(grams)


def assert_found(found, hfs, source, beam, **how) -> None:
    for row, hypotheses in zip(source, found, strict=True):
        expected = search(hfs, row[row.ne(PAD)].unsqueeze(0), beam, **how)
        assert [h["tokens"].tolist() for h in hypotheses] == [text for text, _, _ in expected]
        for hypothesis, (_, score, steps) in zip(hypotheses, expected, strict=True):
            assert hypothesis["score"].item() == pytest.approx(score, abs=1e-4)
            assert hypothesis["positional_scores"].tolist() == pytest.approx(steps, abs=1e-4)


SEARCHES = {
    "greedy": ({"beam": 1}, {}),
    "beam and nbest": ({"beam": 4, "nbest": 4}, {}),
    "max_len_b": ({"beam": 3, "max_len_b": 4}, {"max_len": 4}),
    "min_len": ({"beam": 3, "min_len": MAX_LEN}, {"min_len": MAX_LEN}),
    "lenpen": ({"beam": 4, "lenpen": 2.5}, {"lenpen": 2.5}),
    "unnormalized": ({"beam": 4, "unnormalized": True}, {"unnormalized": True}),
    "unkpen": ({"beam": 3, "unkpen": -3.0}, {"unkpen": -3.0}),
    "temperature": ({"beam": 3, "temperature": 2.5}, {"temperature": 2.5}),
    **{
        f"no_repeat_ngram_size {size}": (
            {"beam": 3, "min_len": MAX_LEN, "no_repeat_ngram_size": size},
            {"min_len": MAX_LEN, "no_repeat": size},
        )
        for size in (1, 2, 3)
    },
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_writes_what_a_plain_loop_writes(models, source, name):
    (ours, hf), (given, how) = models[0], SEARCHES[name]
    found = written(ours, source, {"max_len_b": MAX_LEN, **given})
    assert_found(found, [hf], source, given["beam"], **how)


@pytest.mark.parametrize("name", [name for name in SEARCHES if name not in ("greedy", "max_len_b")])
def test_an_option_that_is_compared_with_the_loop_changes_what_is_written(models, source, name):
    given, _ = SEARCHES[name]
    plain = {"beam": given["beam"], "max_len_b": MAX_LEN}
    if "no_repeat" in name:
        plain["min_len"] = MAX_LEN
    if name == "beam and nbest":
        plain["beam"] = 1
    ours = models[0][0]
    texts = [
        [(h["tokens"].tolist(), round(h["score"].item(), 3)) for row in found for h in row]
        for found in (written(ours, source, plain), written(ours, source, plain | given))
    ]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("beam", [1, 3])
def test_a_text_begins_with_its_prefix_and_ends_where_that_ends(models, source, beam):
    ours, hf = models[0]
    prefixes = [[7, 8, 9], [5, EOS], [11, 11, 12], [6]]
    padded = torch.tensor([[*p, *[PAD] * (3 - len(p))] for p in prefixes])
    found = written(ours, source, {"beam": beam, "max_len_b": MAX_LEN}, prefix=padded)
    for row, hypotheses, prefix in zip(source, found, prefixes, strict=True):
        if EOS in prefix:
            assert hypotheses[0]["tokens"].tolist() == prefix
        else:
            assert_found([hypotheses], [hf], row[None], beam, prefix=prefix)


def test_an_ensemble_averages_the_probabilities_of_the_next_token(models, source):
    (first, hf), (second, other) = models
    config = GenerationConfig(beam=3, max_len_b=MAX_LEN)
    generator = generator_of(first, vars(config), stock=False, more=[second])
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    found = generator.generate(None, sample, bos_token=PAD)
    assert_found(found, [hf, other], source, 3)


def test_the_likelihood_of_the_references_is_the_models(models, source):
    (first, hf), (second, other) = models
    generator = generator_of(first, {"score_reference": True}, stock=False)
    assert isinstance(generator, SequenceScorer)
    texts = [[5, 6, EOS], [7, EOS], [8, 9, 10, 11, EOS]]
    target = torch.tensor([[*text, *[PAD] * (5 - len(text))] for text in texts])
    before = torch.cat((torch.full((3, 1), PAD), target[:, :-1]), 1)
    net_input = {"src_tokens": source[:3], "prev_output_tokens": before}
    net_input["src_lengths"] = source[:3].ne(PAD).sum(1)
    sample = {"net_input": net_input, "target": target}
    for ours, hfs in (([first], [hf]), ([first, second], [hf, other])):
        for row, text, found in zip(
            source, texts, generator.generate(ours, sample, bos_token=PAD), strict=False
        ):
            row = row[row.ne(PAD)].unsqueeze(0)
            steps = [
                log_likelihoods(hfs, row, [text[:n]])[0, token].item()
                for n, token in enumerate(text)
            ]
            assert found[0]["tokens"].tolist() == text
            assert found[0]["positional_scores"].tolist() == pytest.approx(steps, abs=1e-4)
            assert found[0]["score"].item() == pytest.approx(sum(steps) / len(steps), abs=1e-4)


SAMPLINGS = {
    "all": ({}, lambda likelihoods: likelihoods),
    "top-k": ({"sampling_topk": 5}, lambda likelihoods: likelihoods[:5]),
    "top-p": ({"sampling_topp": 0.5}, lambda likelihoods: nucleus(likelihoods, 0.5)),
    "temperature": ({"temperature": 0.5, "sampling_topk": 5}, lambda likelihoods: likelihoods[:5]),
}


def nucleus(likelihoods: list[tuple[float, int]], share: float) -> list[tuple[float, int]]:
    """The likeliest tokens until their probabilities pass ``share``."""
    kept, mass = [], 0.0
    for likelihood, token in likelihoods:
        kept.append((likelihood, token))
        mass += math.exp(likelihood)
        if mass > share:
            break
    return kept


@pytest.mark.parametrize("name", SAMPLINGS)
def test_what_is_drawn_is_distributed_as_it_is_said_to_be(models, source, name):
    (ours, hf), (given, kept) = models[0], SAMPLINGS[name]
    row, beam = source[0][source[0].ne(PAD)].unsqueeze(0), 90
    drawn = written(
        ours,
        row.repeat(40, 1),
        {"beam": beam, "nbest": beam, "sampling": True, "max_len_b": 1, "min_len": 0, **given},
    )
    firsts = Counter(h["tokens"][0].item() for one in drawn for h in one)
    total = sum(firsts.values())
    found = log_likelihoods([hf], row, [[]], given.get("temperature", 1.0))[0].tolist()
    ranked = sorted(((v, n) for n, v in enumerate(found) if n != PAD), reverse=True)
    weights = {token: math.exp(value) for value, token in kept(ranked)}
    expected = {token: weight / sum(weights.values()) for token, weight in weights.items()}
    assert total >= 3000 and firsts.keys() <= expected.keys()
    distance = sum(abs(firsts[t] / total - p) for t, p in expected.items()) / 2
    # The mean distance of draws from their own distribution, and what an error of it would pass.
    chance = sum(math.sqrt(p * (1 - p) / total) for p in expected.values()) / 2
    assert distance < 2 * chance
    for hypothesis in drawn[0][:5]:
        first, *rest = hypothesis["tokens"].tolist()
        steps = [found[first]]
        if rest:
            next_ones = log_likelihoods([hf], row, [[first]], given.get("temperature", 1.0))
            steps.append(next_ones[0, EOS].item())
        assert hypothesis["score"].item() == pytest.approx(sum(steps) / len(steps), abs=1e-4)


def scored(hfs, row, text: list[int]) -> list[float]:
    """Log-likelihood of each token of a text."""
    row = row[row.ne(PAD)].unsqueeze(0)
    return [log_likelihoods(hfs, row, [text[:n]])[0, token].item() for n, token in enumerate(text)]


@pytest.mark.parametrize("min_len", [0, 3])
def test_the_texts_that_have_ended_are_kept_where_no_other_can_be_written(models, source, min_len):
    (ours, hf), words = models[0], (7, 8)
    options = {"beam": 6, "max_len_b": MAX_LEN, "min_len": min_len, "no_repeat_ngram_size": 1}
    generator = generator_of(ours, options, stock=False)
    others = [token for token in range(NARROW.vocab_size) if token not in (EOS, *words)]
    generator.token_indices_to_suppress = torch.tensor(others)
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    if min_len > len(words):
        with pytest.raises(UserError, match="every next token is forbidden"):
            generator.generate(None, sample, bos_token=PAD)
        return
    texts = [[EOS], [7, EOS], [8, EOS], [7, 8, EOS], [8, 7, EOS]]  # fewer than beams
    for row, found in zip(source, generator.generate(None, sample, bos_token=PAD), strict=True):
        scores = {tuple(text): sum(scored([hf], row, text)) / len(text) for text in texts}
        expected = sorted(texts, key=lambda text: -scores[tuple(text)])
        assert [h["tokens"].tolist() for h in found] == expected
        for hypothesis, text in zip(found, expected, strict=True):
            assert hypothesis["score"].item() == pytest.approx(scores[tuple(text)], abs=1e-4)


@pytest.mark.parametrize("more", [{}, {"sampling_topk": 5}, {"sampling_topp": 0.8}])
def test_a_drawn_text_that_has_ended_does_not_forbid_the_end_of_the_others(models, source, more):
    (ours, hf), beam, longest = models[0], 4, 6
    options = {"beam": beam, "nbest": beam, "sampling": True, "max_len_b": longest, **more}
    found = written(ours, source, {**options, "no_repeat_ngram_size": 1})
    lengths = {len(h["tokens"]) for row in found for h in row}
    assert len(lengths) > 1 and longest + 1 in lengths  # the last end where the length does
    for drawn in found:
        assert len(drawn) == beam
        for hypothesis in drawn:
            text = hypothesis["tokens"].tolist()
            assert text[-1] == EOS and len(set(text)) == len(text)
    if not more:
        drawn = found[0][0]
        expected = scored([hf], source[0], drawn["tokens"].tolist())
        assert drawn["positional_scores"].tolist() == pytest.approx(expected, abs=1e-4)


# --- the command ----------------------------------------------------------------------------------


def refusal(capsys, words: list[str], parser=options.get_generation_parser) -> str:
    """The one line that the command ends in with exit code 2."""
    with pytest.raises(SystemExit) as end:
        options.parse_args_and_arch(parser(), words)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def other_value(action: argparse.Action) -> list[str]:
    """Words that give an option another value than its default."""
    option = max(action.option_strings, key=len)
    if action.nargs == 0:
        return [option]
    if action.choices:
        return [option, next(c for c in map(str, action.choices) if c != str(action.default))]
    return [option, "7" if action.type in (int, float) else "[7]"]


@pytest.fixture(scope="module")
def parser_actions() -> list[argparse.Action]:
    return [
        a for a in options.get_generation_parser()._actions if a.option_strings[1:] != ["--help"]
    ]


def test_every_option_that_generation_does_not_read_is_refused(parser_actions, capsys):
    names = {action.dest for action in parser_actions}
    assert READ - {"task"} <= names and REFUSED.keys() <= names | {"arch"}
    unread = [a for a in parser_actions if a.dest not in READ]
    assert len(unread) > 100
    for action in unread:
        line = refusal(capsys, [*GENERATE, *other_value(action)])
        assert line.startswith(f"error: --{action.dest.replace('_', '-')}: "), line


CONFLICTS = [
    ("--beam 0", "--beam 0: expected at least 1"),
    ("--nbest 3 --beam 2", "take --beam 3"),
    ("--sampling", "--sampling draws --beam 5 texts and shows --nbest 1"),
    ("--sampling-topk 5", "--sampling-topk goes with --sampling"),
    ("--sampling-topp 0.5", "--sampling-topp goes with --sampling"),
    ("--sampling --beam 1 --sampling-topk 5 --sampling-topp 0.5", "not both"),
    ("--sampling --beam 1 --sampling-topk 0", "--sampling-topk 0: expected at least 1"),
    ("--sampling --beam 1 --sampling-topp 1.5", "expected a share in (0, 1]"),
    ("--temperature 0", "--temperature 0.0: expected more than 0"),
    ("--temperature nan", "--temperature nan: expected more than 0"),
    ("--max-len-b 3 --min-len 4", "--max-len-b 3: expected at least 4"),
    ("--max-len-b 0", "--max-len-b 0: expected at least 1"),
    ("--prefix-size 99", "--max-len-b 64: expected at least 99"),
    ("--prefix-size 1 --no-repeat-ngram-size 2", "take one of them"),
    ("--num-shards 2 --shard-id 2", "--shard-id 2: expected 0 to 1"),
    ("--num-shards 0", "--num-shards 0: expected at least 1"),
    ("--shard-id -1 --num-shards 2", "--shard-id -1: expected at least 0"),
    ("--score-reference --results-path x", "writes no predictions"),
    ("--scoring wer", "expected one of bleu, sacrebleu, chrf"),
    ("--model-overrides {", "expected a dict"),
    ("--model-overrides [1]", "expected a dict, found a list"),
    ("--model-overrides {'frames':8}", "neither the task nor the model has an option 'frames'"),
    ("--model-overrides {'num_frames':'many'}", "'many' of type 'str' could not be converted"),
    ("--max-len-a 1", "--max-len-a: the source is a prompt and a video"),
    ("--eos-token x", "texts end with T5's </s>"),
]


@pytest.mark.parametrize(("words", "said"), CONFLICTS)
def test_values_that_cannot_be_meant_are_one_line(capsys, words, said):
    assert said in refusal(capsys, [*GENERATE, *words.split()])


def test_generation_without_a_checkpoint_and_lines_of_text_are_one_line(capsys):
    assert "--path is missing" in refusal(capsys, GENERATE[:-2])
    line = refusal(capsys, GENERATE, options.get_interactive_generation_parser)
    assert "vt-caption VIDEO... --path CHECKPOINT" in line


def test_options_that_are_read_pass(capsys):
    words = "--beam 4 --nbest 2 --model-overrides {'num_frames':4,'video_pooling':'temporal'}"
    found = options.parse_args_and_arch(
        options.get_generation_parser(), [*GENERATE, *words.split(), "--scoring", "chrf"]
    )
    assert (found.beam, found.nbest, found.scoring) == (4, 2, "chrf")


def test_the_page_lists_every_option_of_generation():
    page = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`--([a-z][a-z-]+)", page))
    groups = (GenerationConfig, CommonEvalConfig, DatasetConfig, InteractiveConfig)
    names = {name for group in groups for name in group.__dataclass_fields__} - {"_name"}
    assert {name.replace("_", "-") for name in names} <= listed
    assert all(f"`{name}`" in page for name in SCORERS)


def test_the_tests_that_the_page_names_are_there():
    page = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
    own = Path(__file__).read_text(encoding="utf-8")
    for name in re.findall(r"`([a-z_]+)…", page):
        assert f"def test_{name}" in own, name


def bleu_of(printed: str) -> str:
    return re.search(r"Generate test with beam=\d+: (.*)", printed)[1]


@pytest.mark.slow
def test_shards_write_every_row_once_and_their_files_are_joined(data_directory, trained, tmp_path):
    command = ["fairseq-generate", data_directory, *PLUGIN, "--path", trained, "--batch-size", "2"]
    command += ["--action", "caption", "--max-len-b", "4", "--results-path", tmp_path]
    command += ["--beam", "3", "--nbest", "2", "--prefix-size", "1", "--scoring", "chrf"]
    shards = [[*command, "--num-shards", "2", "--shard-id", str(shard)] for shard in (1, 0)]
    run(*shards[0])
    assert not (tmp_path / "predictions.jsonl").exists()
    run(*shards[1])
    rows = [json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 5
    texts = [(tmp_path / f"generate-test{shard}.txt").read_text() for shard in ("", ".1")]
    ids = [set(re.findall(r"^T-(\d+)\t", text, re.MULTILINE)) for text in texts]
    assert ids[0] | ids[1] == set("01234") and not ids[0] & ids[1]
    for text in texts:
        assert text.count("\nD-") == 2 * text.count("\nT-")
        assert bleu_of(text).startswith("chrF2")
    references = dict(re.findall(r"^T-(\d+)\t(\S+)", "".join(texts), re.MULTILINE))
    for number, first in re.findall(r"^D-(\d+)\t\S+\t(\S+)", "".join(texts), re.MULTILINE):
        assert references[number].startswith(first) or first.startswith(references[number])


@pytest.mark.slow
def test_a_shard_without_rows_ends_well_and_torchruns_ranks_are_shards(
    data_directory, trained, tmp_path, monkeypatch
):
    command = ["fairseq-generate", data_directory, *PLUGIN, "--path", trained, "--batch-size", "4"]
    command += ["--action", "caption", "--max-len-b", "2", "--results-path", tmp_path]
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("0", "1", "2"):
        monkeypatch.setenv("RANK", rank)
        log = run(*command)
    assert "process 3 of 3 has no rows" in log
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 5


@pytest.mark.slow
def test_references_are_scored_and_prefixes_need_them(data_directory, trained, tmp_path):
    command = ["fairseq-generate", data_directory, *PLUGIN, "--path", trained, "--gen-subset"]
    printed = run(*command, "test", "--action", "caption", "--score-reference")
    targets, found = (
        dict(re.findall(rf"^{kind}-(\d+)\t{more}(.*)$", printed, re.MULTILINE))
        for kind, more in (("T", ""), ("D", r"\S+\t"))
    )
    assert targets == found and len(found) == 5
    assert "BLEU4 = 100.00" in bleu_of(printed)


@pytest.mark.slow
def test_models_that_need_different_inputs_are_no_ensemble(data_directory, trained, tmp_path):
    state = torch.load(trained, weights_only=False)
    state["cfg"]["task"]["num_frames"] = 16
    torch.save(state, tmp_path / "other.pt")
    command = ["fairseq-generate", data_directory, *PLUGIN, "--action", "caption", "--max-len-b=2"]
    both = f"{trained}:{tmp_path}/other.pt"
    line = run(*command, "--path", both, expected_code=2).splitlines()[-1]
    assert "--path: models with --num-frames 8 and 16; together they need the same input" in line
    log = run(*command, "--path", both, "--num-frames", "8", "--bf16")
    assert log.count("\nD-") == 5


# --- what the command says, and what the checkpoint says ------------------------------------------


def adopted(given: str = "", context: bool = False, **saved) -> dict:
    """The input options of a task after it was told those of a checkpoint."""
    task = object.__new__(VideoTranslateTask)
    task.cfg = OmegaConf.create(vars(VideoTranslateTaskConfig(given=given, context=context)))
    task.adopt_input_options(saved)
    return task.cfg


def test_an_option_that_is_given_wins_over_the_checkpoints_also_at_its_default():
    assert adopted(num_frames=8).num_frames == 8
    assert adopted("num_frames", num_frames=8).num_frames == 32
    assert adopted(no_context=True).no_context is True
    assert adopted(context=True, no_context=True).no_context is False


def test_the_parser_says_which_input_options_a_command_gives():
    words = [*GENERATE, "--num-frames", "32", "--max-seconds=6", "--action", "caption"]
    found = options.parse_args_and_arch(options.get_generation_parser(), words)
    assert set(found.given.split(",")) == {"num_frames", "max_seconds"}


def test_checkpoints_of_before_keep_the_layout_of_their_sources(trained):
    state = torch.load(trained, weights_only=False)["cfg"]
    assert checked_config(state, "new")["task"]["source_layout"] == "paper"
    del state["task"]["source_layout"]
    old = checked_config(state, "old")
    assert old["task"]["source_layout"] == "early"
    assert adopted(source_layout="early").source_layout == "early"
    changes = changed_options({"task": state["task"]}, {"task": {"source_layout": "paper"}})
    assert changes == ["--source-layout early -> paper"]
