import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vt_fairseq.data import clips
from vt_fairseq.data.clips import ClipCache, ClipLoader
from vt_fairseq.data.data_workers import EXIT_NO_SHARED_MEMORY
from vt_fairseq.data.dataset import MAX_REPLACEMENTS, VideoTextDataset
from vt_fairseq.data.head_targets import CLASS_HEADS, NO_CLASS, HeadTargets, parse_heads
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.data.prompts import BUILT_IN
from vt_fairseq.data.text import TextOptions
from vt_fairseq.data.text_noise import TextNoise
from vt_fairseq.data.tokenizer import EOS, PAD, Tokenizer
from vt_fairseq.data.unreadable_clips import UnreadableClips
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.video.decoding import FrameSampling
from vt_fairseq.video.transforms import ClipTransform


@pytest.fixture(scope="module")
def tokenizer(data_directory) -> Tokenizer:
    return Tokenizer.from_file(data_directory / "spiece.model")


@pytest.fixture
def build(data_directory, tokenizer):
    data = DataDirectory.open(data_directory)
    lists = {name: data.classes(name) for name in CLASS_HEADS}

    def make(
        train=True,
        prompts=("caption",),
        reuse=False,
        loader=None,
        context=True,
        heads=(),
        max_seconds=6.0,
        cache=None,
        still_mix=0.0,
        **text,
    ) -> VideoTextDataset:
        noise = {"mode": "shuffled-masked", "mask_amount": "batch", "dropout": 0.0, **text}
        window, transform = "random" if train else "center", ClipTransform(size=24, train=train)
        sampling = FrameSampling(num_frames=4, max_seconds=max_seconds)
        files = ClipLoader(data.video_root, sampling, transform, window, cache=cache)
        targets = HeadTargets.of(heads, lists, "DATA") if heads else None
        prompts = prompts if targets is None else [targets.prompt_name]
        return VideoTextDataset(
            rows=data.manifest("train"),
            load_frames=loader or files,
            num_video_tokens=1,
            prompts=[BUILT_IN[name] for name in prompts],
            reuse_batch=reuse,
            text=TextOptions(
                tokenizer,
                TextNoise(mask_id=tokenizer.mask, **noise),
                test_mask_tokens=8 if heads else 0,
                context=context,
            ),
            seed=3,
            train=train,
            heads=targets,
            still_mix=still_mix,
        )

    return make


def same(a, b) -> bool:
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(build, workers):
    dataset = build(prompts=("caption", "classify"), dropout=0.3)
    batches = [list(range(i, i + 5)) for i in range(0, 20, 5)]

    options = {"batch_sampler": batches, "collate_fn": dataset.collater}
    alone, shared = (DataLoader(dataset, num_workers=n, **options) for n in (0, workers))
    assert same(list(alone), list(shared))


def test_augmentation_and_noise_change_with_the_epoch_and_not_otherwise(build):
    dataset = build()
    first = dataset.collater([dataset[0], dataset[1]])
    assert same(first, dataset.collater([dataset[0], dataset[1]]))
    dataset.set_epoch(2)
    second = dataset.collater([dataset[0], dataset[1]])
    videos = [sample["net_input"]["video"] for sample in (first, second)]
    assert not same(*videos)
    assert videos[0].dtype == torch.uint8 and videos[0].shape == (2, 4, 24, 24, 3)


def decoded(monkeypatch) -> list[str]:
    """Which videos are decoded from here on, in a list that grows."""
    names: list[str] = []
    read = clips.read_clip
    monkeypatch.setattr(
        clips, "read_clip", lambda p, *a, **k: names.append(p.name) or read(p, *a, **k)
    )
    return names


@pytest.mark.parametrize("unannotated", [False, True])
def test_a_cache_decodes_each_clip_once_and_changes_nothing(build, monkeypatch, unannotated):
    plain, cached = build(), build(cache=ClipCache(1e9))
    if unannotated:
        for dataset in (plain, cached):
            dataset.rows = [replace(row, start=None, end=None) for row in dataset.rows[:4]]
        # Whole files, which last longer than a window of 6 s.
        assert all(row.end is None for row in cached.rows)
    names = decoded(monkeypatch)
    for epoch in (1, 2, 3):
        plain.set_epoch(epoch)
        cached.set_epoch(epoch)
        expected = plain.collater([plain[i] for i in range(4)])
        del names[:]
        assert same(expected, cached.collater([cached[i] for i in range(4)]))
        assert len(names) == (4 if epoch == 1 or unannotated else 0)


def test_a_whole_file_that_fits_the_window_is_cached_and_a_random_window_is_not(build, monkeypatch):
    whole, cut = (build(cache=ClipCache(1e9), max_seconds=seconds) for seconds in (60.0, 1.0))
    whole.rows = [replace(whole.rows[0], start=None, end=None)]
    names = decoded(monkeypatch)
    for dataset, times in ((whole, 1), (cut, 3)):
        del names[:]
        shown = []
        for epoch in (1, 2, 3):
            dataset.set_epoch(epoch)
            shown.append(dataset[0].frames)
        assert len(names) == times
        assert not np.array_equal(shown[0], shown[1])


def test_a_full_cache_keeps_what_it_has_and_decodes_the_rest_anew(build, monkeypatch):
    one_clip = 4 * 27 * 27 * 3  # 4 frames whose short side is 24 * 128 / 112 pixels
    dataset = build(cache=ClipCache(2.5 * one_clip))
    names = decoded(monkeypatch)
    for _ in range(2):
        for i in range(4):
            _ = dataset[i]
    assert len(names) == 4 + 2


def test_targets_end_in_eos_and_decoding_starts_from_pad(build, tokenizer):
    dataset = build(train=False)
    sample = dataset.collater([dataset[i] for i in range(6)])
    previous = sample["net_input"]["prev_output_tokens"]
    for i, (target, shifted) in enumerate(zip(sample["target"], previous, strict=True)):
        tokens = target[target.ne(PAD)].tolist()
        assert tokens[-1] == EOS and tokens.count(EOS) == 1
        assert tokenizer.decode(tokens) == dataset.rows[i].captions[0]
        assert shifted.tolist() == [PAD, *target.tolist()[:-1]]


def test_texts_are_padded_to_a_multiple_and_nothing_else_changes(build):
    plain, padded = build(), build()
    padded.length_multiple = 16
    found, expected = (data.collater([data[0], data[1]]) for data in (padded, plain))
    for name in ("src_tokens", "prev_output_tokens"):
        found[name], expected[name] = found["net_input"][name], expected["net_input"][name]
    for name in ("src_tokens", "prev_output_tokens", "target"):
        length = expected[name].size(1)
        assert found[name].size(1) == -(-length // 16) * 16 > length
        assert torch.equal(found[name][:, :length], expected[name])
        shifted = name == "prev_output_tokens"  # where the longest one's eos now stands, unused
        assert not found[name][:, length + shifted :].any()
    assert found["ntokens"] == expected["ntokens"]


def test_at_test_the_source_has_no_text_of_the_target(build, tokenizer):
    dataset = build(train=False)
    row = dataset.rows[0]
    sample = dataset.collater([dataset[0]])
    context = tokenizer.encode(row.context)
    expected = [tokenizer.cls, *tokenizer.encode("caption :"), tokenizer.video, tokenizer.sep]
    assert sample["net_input"]["src_tokens"][0].tolist() == [*expected, *context, EOS]


def test_fully_masked_training_text_has_one_mask_per_target_token(build, tokenizer):
    dataset = build(mode="masked", mask_amount="example")
    sample = dataset.collater([dataset[i] for i in range(8)])
    for source, target in zip(sample["net_input"]["src_tokens"], sample["target"], strict=True):
        end = source.tolist().index(tokenizer.sep)
        text = source.tolist()[:end]
        text = text[text.index(tokenizer.video) + 1 :]
        assert len(text) == target.ne(PAD).sum() - 1
        assert 1 <= text.count(tokenizer.mask) <= len(text)


def test_each_row_draws_one_of_its_actions_every_epoch(build):
    dataset = build(prompts=("caption", "classify"))
    drawn = {index: [] for index in range(8)}
    for epoch in range(1, 21):
        dataset.set_epoch(epoch)
        for clip in (dataset[index] for index in drawn):
            sample = dataset.collater([clip])
            (references,) = sample["references"]
            actions = [clip.row.captions, (clip.row.label,)]
            drawn[clip.index].append(actions.index(tuple(references)))
    counts = [sum(actions) for actions in drawn.values()]
    # Of 160 draws of probability 1/2: 80 and a deviation of 6.3; of 20, neither all nor none.
    assert abs(sum(counts) - 80) < 4 * 6.3 and all(0 < count < 20 for count in counts)
    dataset = build(prompts=("caption", "classify"), train=False)
    assert dataset.collater([dataset[0]])["references"] == [list(dataset.rows[0].captions)]


def test_a_reused_batch_has_one_sample_per_action_over_the_same_frames(build):
    dataset = build(prompts=("caption", "classify", "answer"), reuse=True)
    samples = dataset.collater([dataset[i] for i in range(4)])
    assert [s["references"][0] for s in samples] == [
        list(dataset.rows[0].captions),
        [dataset.rows[0].label],
        [dataset.rows[0].candidates[dataset.rows[0].answer]],
    ]
    for sample in samples[1:]:
        assert torch.equal(sample["net_input"]["video"], samples[0]["net_input"]["video"])


def test_a_row_without_a_target_for_an_action_is_left_out_of_its_sample_only(build):
    dataset = build(prompts=("caption", "classify"), reuse=True)
    clips = [dataset[0], dataset[1]]
    clips[1].row = replace(clips[1].row, label=None)
    captions, labels = dataset.collater(clips)
    assert captions["id"].tolist() == [0, 1] and labels["id"].tolist() == [0]
    assert len(labels["net_input"]["video"]) == 1
    clips[0].row = replace(clips[0].row, label=None)
    labels = dataset.collater(clips)[1]
    assert labels["id"].tolist() == [0, 1]
    assert labels["target"] is None and labels["ntokens"] == 0


def fails_for(ids: set[str]):
    def load(row, rng):
        if row.id in ids:
            raise VideoError("broken on purpose")
        return np.full((4, 24, 24, 3), 7, dtype=np.uint8)

    return load


def test_in_training_an_unreadable_clip_is_replaced_by_the_same_other_row_every_time_and_named(
    build,
):
    broken = build().rows[2].id
    dataset = build(loader=fails_for({broken}))
    clip = dataset[2]
    assert clip.row.id != broken and clip.frames is not None and not clip.missing
    assert dataset[2].row == clip.row
    sample = dataset.collater([dataset[1], clip])
    assert sample["unreadable"] == [(broken, "broken on purpose")]
    assert sample["num_missing"] == 0


def test_in_evaluation_an_unreadable_clip_keeps_its_row_without_video_and_counts_as_missing(build):
    broken = build().rows[2].id
    dataset = build(train=False, loader=fails_for({broken}))
    sample = dataset.collater([dataset[i] for i in range(4)])
    assert sample["id"].tolist() == [0, 1, 2, 3]
    assert sample["missing"].tolist() == [False, False, True, False]
    assert len(sample["net_input"]["video"]) == 3
    assert sample["clip_ids"][2] == broken
    tokens = sample["target"].ne(PAD).sum(1).tolist()
    assert tokens[2] > 0 and sample["ntokens"] == tokens[0] + tokens[1] + tokens[3]
    assert sample["unreadable"] == [(broken, "broken on purpose")]


@pytest.mark.parametrize("targets", ["all", "of some", "none"])
def test_a_reused_batch_counts_a_clip_once_whatever_targets_there_are(build, targets):
    broken = {row.id for row in list(build().rows)[:2]}
    dataset = build(prompts=("caption", "classify"), reuse=True, loader=fails_for(broken))
    clips = [dataset[i] for i in range(3)]
    for clip in clips[: {"all": 0, "of some": 1, "none": 3}[targets]]:  # replacements, and a clip
        clip.row = replace(clip.row, captions=(), label=None)
    met = [named for clip in clips for named in clip.unreadable]
    assert {name for name, _ in met} == broken
    samples = dataset.collater(clips)
    assert [named for sample in samples for named in sample["unreadable"]] == met
    assert sum(sample["num_decoded"] for sample in samples) == 3


def test_when_nothing_can_be_read_training_stops_and_says_so(build):
    everything = {row.id for row in build().rows}
    with pytest.raises(UserError, match=f"{MAX_REPLACEMENTS} clips in a row .*video root"):
        build(loader=fails_for(everything))[0]


def test_long_targets_are_cut_and_still_end_in_eos(build):
    dataset = build(train=False)
    dataset.prompts = [replace(dataset.prompts[0], max_target_tokens=3)]
    sample = dataset.collater([dataset[0]])
    assert sample["target"].shape == (1, 4) and sample["target"][0, -1] == EOS
    assert sample["num_cut"] == 1


def test_only_targets_longer_than_the_limit_count_as_cut(build, tokenizer):
    dataset = build(train=False)
    lengths = sorted(len(tokenizer.encode(row.captions[0])) for row in dataset.rows)
    dataset.prompts = [replace(dataset.prompts[0], max_target_tokens=lengths[-2])]
    sample = dataset.collater([dataset[index] for index in range(len(dataset))])
    assert sample["num_cut"] == sum(length > lengths[-2] for length in lengths)


# --- linear heads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [True, False])
def test_classes_are_numbered_in_the_order_of_the_class_lists(data_directory, build, train):
    data = DataDirectory.open(data_directory)
    made = build(heads=("verb", "noun", "label"), train=train)
    sample = made.collater([made[i] for i in range(6)])
    for name, classes in sample["classes"].items():
        found = [data.classes(name)[number] for number in classes]
        assert found == [getattr(made.rows[i], name) for i in range(6)]


@pytest.mark.parametrize("train", [True, False])
def test_for_heads_the_source_has_nothing_of_the_target(build, tokenizer, train):
    made = build(heads=("verb", "noun"), train=train)
    sample = made.collater([made[0]])
    assert sample["target"] is None and "prev_output_tokens" not in sample["net_input"]
    t = tokenizer
    head = [t.cls, *t.encode("classify :"), t.video, t.sep]
    expected = [*head, *t.encode(made.rows[0].context), EOS]
    assert sample["net_input"]["src_tokens"][0].tolist() == expected
    without = build(heads=("verb",), context=False)
    tokens = without.collater([without[0]])["net_input"]["src_tokens"][0]
    assert tokens.tolist() == [*head, EOS]


def test_each_candidate_has_a_source_with_question_candidate_and_subtitles(build, tokenizer):
    made = build(heads=("answer",))
    sample = made.collater([made[0], made[1]])
    inputs = sample["net_input"]
    assert sample["candidates"].tolist() == [[True] * 5] * 2
    assert inputs["src_tokens"].shape[0] == 10 and len(inputs["video"]) == 2
    assert inputs["clip_of_row"].tolist() == [0] * 5 + [1] * 5
    assert sample["classes"]["answer"].tolist() == [made.rows[i].answer for i in range(2)]
    row, t = made.rows[1], tokenizer
    expected = [
        *[t.cls, *t.encode("answer :"), t.video, *t.encode(row.question)],
        *[t.sep, *t.encode(row.candidates[2]), t.sep, *t.encode(row.context), EOS],
    ]
    assert inputs["src_tokens"][7][: len(expected)].tolist() == expected


def test_unreadable_clips_and_rows_without_a_question_keep_the_places_of_the_others(build):
    broken = build().rows[0].id
    made = build(heads=("answer",), train=False, loader=fails_for({broken}))
    batch = [made[i] for i in range(4)]
    batch[1].row = replace(batch[1].row, question=None, candidates=(), answer=None)
    batch[2].row = replace(batch[2].row, candidates=batch[2].row.candidates[:2], answer=None)
    sample = made.collater(batch)
    assert sample["candidates"].sum(1).tolist() == [5, 0, 2, 5]
    # Three clips were read, and the unreadable one's five sources hold no video.
    assert len(sample["net_input"]["video"]) == 3
    assert sample["net_input"]["clip_of_row"].tolist() == [1] * 2 + [2] * 5
    targets = sample["classes"]["answer"].tolist()
    assert targets[1:3] == [NO_CLASS] * 2 and sample["missing"].tolist() == [True] + [False] * 3
    # Of the two that have an answer, one was read.
    assert targets[0] != NO_CLASS and targets[3] != NO_CLASS and sample["num_labeled"] == 1


def test_a_batch_without_any_question_is_a_sample_without_sources(build):
    made = build(heads=("answer",))
    batch = [made[0], made[1]]
    for clip in batch:
        clip.row = replace(clip.row, candidates=(), answer=None)
    sample = made.collater(batch)
    assert len(sample["net_input"]["src_tokens"]) == 0
    assert sample["candidates"].shape == (2, 0)
    assert sample["classes"]["answer"].tolist() == [NO_CLASS] * 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("verbs", "some of verb, noun, label, answer"),
        ("verb,verb", "each once"),
        ("answer,verb", "train them apart"),
    ],
)
def test_a_wrong_option_is_one_line_that_says_what_was_expected(option, message):
    with pytest.raises(UserError, match=message):
        parse_heads(option)


def test_heads_without_classes_and_classes_that_the_lists_lack_are_refused(build):
    with pytest.raises(UserError, match="no row of DATA has a verb"):
        HeadTargets.of(["verb"], {"verb": []}, "DATA")
    made = build(heads=("verb",))
    clip = made[0]
    clip.row = replace(clip.row, verb="fly")
    with pytest.raises(UserError, match=f"clip {clip.row.id}: verb 'fly' is none of the"):
        made.collater([clip])


def test_still_frames_of_other_clips_depend_on_seed_epoch_and_row_and_not_on_validation(build):
    plain, mixed = build(), build(still_mix=0.5)

    def frames(dataset) -> list[np.ndarray]:
        return [dataset[i].frames for i in range(12)]

    first, changed = frames(plain), frames(mixed)
    different = sum((a != b).any() for a, b in zip(first, changed, strict=True))
    assert 2 <= different <= 10  # about half
    assert all((a == b).all() for a, b in zip(changed, frames(mixed), strict=True))
    mixed.set_epoch(2)
    assert any((a != b).any() for a, b in zip(changed, frames(mixed), strict=True))
    tests = [frames(build(train=False, still_mix=weight)) for weight in (0.0, 0.5)]
    assert all((a == b).all() for a, b in zip(*tests, strict=True))


def test_an_unreadable_still_frame_leaves_the_clip_as_it_is(build):
    whole = build()

    def one_only(row, rng):
        if row.id != whole.rows[0].id:
            raise VideoError("cannot be read")
        return whole.load_frames(row, rng)

    dataset = build(loader=one_only, still_mix=0.5)
    for epoch in range(1, 9):
        whole.set_epoch(epoch)
        dataset.set_epoch(epoch)
        if dataset._rng(0, 7).random() < 0.5 and dataset[0].unreadable == []:
            return
    pytest.fail("no epoch mixes")


def test_a_weight_above_one_is_refused(build):
    with pytest.raises(UserError, match="weight"):
        build(still_mix=1.5)


def test_a_worker_without_shared_memory_ends_with_the_systems_code_for_its_errors():
    assert EXIT_NO_SHARED_MEMORY == os.EX_OSERR == 71


def test_each_clip_that_cannot_be_read_is_named_once(caplog):
    clips = UnreadableClips(0.5)
    for _ in range(2):
        clips.report([("a", "damaged"), ("b", "gone")])
    assert caplog.messages == ["cannot read clip a: damaged", "cannot read clip b: gone"]
