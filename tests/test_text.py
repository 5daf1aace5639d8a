import pytest

from vt_fairseq.data.dictionary import T5Dictionary
from vt_fairseq.data.manifest import ClipRow, Manifest, write_manifest
from vt_fairseq.data.prompts import BUILT_IN, EARLY_ANSWER, Prompt
from vt_fairseq.data.text import TextOptions
from vt_fairseq.data.text_noise import TextNoise
from vt_fairseq.data.tokenizer import EOS, PAD, Tokenizer, train_vocabulary
from vt_fairseq.data.unknown_text import UnknownText
from vt_fairseq.errors import UserError

TEXTS = ["a red circle spins", "the blue square falls", "what does it do ?"] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_vocabulary(TEXTS, 60))


@pytest.mark.data
def test_t5s_sentencepiece_model_gives_t5s_ids(test_data):
    tokenizer = Tokenizer.from_file(test_data / "t5" / "spiece.model")
    assert tokenizer.encode("The house is wonderful.") == [37, 629, 19, 1627, 5]
    assert tokenizer.table_size == 32128
    assert (tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.video) == tuple(
        range(32100, 32104)
    )
    dictionary = T5Dictionary(tokenizer)
    assert len(dictionary) == 32128
    assert dictionary.index("<extra_id_0>") == 32099
    assert dictionary.index("<extra_id_99>") == 32000
    assert (dictionary.pad(), dictionary.eos(), dictionary.unk()) == (0, 1, 2)


@pytest.mark.data
def test_a_sentencepiece_model_with_other_ids_is_refused_with_what_was_expected(test_data):
    with pytest.raises(UserError, match="does not have T5's ids: expected"):
        Tokenizer.from_file(test_data / "t5" / "not_t5_sentencepiece.model")


def test_a_file_that_is_no_sentencepiece_model_is_refused(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        Tokenizer.from_file(path)
    with pytest.raises(UserError, match="no sentencepiece model at"):
        Tokenizer.from_file(tmp_path / "missing")


def test_text_survives_encoding_and_decoding(tokenizer):
    for text in TEXTS:
        assert tokenizer.decode([*tokenizer.encode(text), EOS, PAD, PAD]) == text


@pytest.mark.parametrize("text", ["[MASK]", "[CLS] </s> <pad>", "<extra_id_0>", "a\u2028b", ""])
def test_control_tokens_in_a_caption_stay_plain_text(tokenizer, text):
    assert all(2 <= i < tokenizer.num_pieces for i in tokenizer.encode(text))


def test_a_trained_vocabulary_is_the_same_every_time():
    assert train_vocabulary(TEXTS, 60) == train_vocabulary(TEXTS, 60)


def test_a_vocabulary_without_text_is_refused():
    with pytest.raises(UserError, match="no text"):
        train_vocabulary(["", " "], 60)


CIRCLE = Prompt("caption", "circle", "caption", 20)


def source(
    tokenizer, num_video_tokens, text, longest=512, prompt=CIRCLE, layout="paper", **of_row
) -> list[int]:
    noise = TextNoise("none", "batch", 0.0, tokenizer.mask)
    options = TextOptions(tokenizer, noise, longest, layout=layout)
    return options.source(ClipRow("a", "a.mp4", **of_row), prompt, num_video_tokens, text)


def test_the_source_is_cls_prompt_video_text_sep_context(tokenizer):
    t, prompt = tokenizer, tokenizer.encode("circle")
    found = source(t, 2, [20], context="a red circle")
    assert found == [
        *[t.cls, *prompt, t.video, t.video, 20, t.sep],
        *[*t.encode("a red circle"), EOS],
    ]
    assert source(t, 0, []) == [t.cls, *prompt, t.sep, EOS]


@pytest.mark.parametrize("text", [[], [20, 21]])
def test_a_question_is_the_beginning_of_the_text_and_subtitles_follow_it(tokenizer, text):
    """Section 4.2.4: a prompt denotes the task, the question is textual input beside subtitles."""
    t, asked = tokenizer, {"question": "what does it do ?", "context": "a red circle"}
    of_row = {"text": text, "prompt": BUILT_IN["answer"], **asked}
    question, context = (t.encode(asked[name]) for name in ("question", "context"))
    prompt = t.encode("answer :")
    head = [t.cls, *prompt, t.video]
    assert source(t, 1, **of_row) == [*head, *question, *text, t.sep, *context, EOS]
    early = {**of_row, "prompt": EARLY_ANSWER, "layout": "early"}
    asking = t.encode("answer : what does it do ?")
    assert source(t, 1, **early) == [t.cls, *asking, t.video, *text, t.sep, *context]
    captions = {**of_row, "prompt": CIRCLE}
    assert source(t, 1, **captions)[-len(context) - 2 - len(text) :] == [
        *[*text, t.sep],
        *[*context, EOS],
    ]


def test_a_long_source_loses_context_first_then_text(tokenizer):
    t, prompt, context = tokenizer, tokenizer.encode("circle"), "what does it do ?"
    longest = 8 + len(prompt)
    found = source(t, 2, [20, 21], longest, context=context)
    assert found[len(prompt) + 3 :] == [20, 21, t.sep, t.encode(context)[0], EOS]
    found = source(t, 2, [20] * 9, longest, context=context)
    assert found[len(prompt) + 3 :] == [20, 20, 20, t.sep, EOS]
    with pytest.raises(UserError, match="prompt and video take"):
        source(t, 9, [], longest)


def test_the_dictionary_writes_text_and_names_added_tokens(tokenizer):
    dictionary = T5Dictionary(tokenizer)
    ids = [tokenizer.cls, *tokenizer.encode("a red circle"), tokenizer.mask, EOS, PAD]
    assert dictionary.string(ids) == "[CLS] a red circle [MASK]"
    assert len(dictionary) == tokenizer.table_size == len(set(dictionary.symbols))


def test_a_prompts_place_for_the_question_is_no_text_that_cannot_be_spelled(tokenizer):
    assert EARLY_ANSWER.fixed_text == "answer :"
    assert UnknownText.of(tokenizer, [EARLY_ANSWER.text]).affected == 1  # { and }


@pytest.mark.parametrize(("most", "rows"), [(12, 0), (11, 0), (10, 6), (4, 4)])
def test_the_rows_that_were_looked_at_for_unknown_text_are_counted(tokenizer, tmp_path, most, rows):
    clips = [ClipRow(str(i), "a.mp4", captions=("a red circle",)) for i in range(11)]
    write_manifest(tmp_path / "a.arrow", clips)
    counts = UnknownText.of_split(tokenizer, Manifest(tmp_path / "a.arrow"), most)
    assert (counts.texts, counts.rows) == (rows or 11, rows)
