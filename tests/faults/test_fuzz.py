"""A short run of ``benchmarks/fuzz_media.py``, damaged manifests, and odd texts."""

import json
import time

import numpy as np
import pytest

from benchmarks import fuzz_media
from vt_fairseq.corpora import jsonl
from vt_fairseq.corpora.rows import Entry, Rejected
from vt_fairseq.data.tokenizer import Tokenizer, train_vocabulary
from vt_fairseq.errors import UserError


def test_damaged_videos_are_read_or_refused_and_all_are_counted(tmp_path):
    found = fuzz_media.fuzz(tmp_path, files=30, seed=1)
    assert found["failures"] == {} and found["crashed"] == found["hung"] == 0
    assert found["read"] + found["refused"] == 30 and found["read"] and found["refused"]
    assert found["counted as unreadable by the data set"] == found["refused"]


def test_damaged_manifests_give_rows_rejections_or_a_named_mistake(tmp_path):
    rows = [{"id": str(i), "video": "a.mp4", "caption": "a ☃ b", "start": i} for i in range(5)]
    sound = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    rng, path, seen = np.random.default_rng(0), tmp_path / "clips.jsonl", set()
    for _ in range(300):
        data = bytearray(sound)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        lines = [x for x in bytes(data).split(b"\n") if x.strip(b" \t\r\n\xef\xbb\xbf")]
        try:
            found = list(jsonl.read(path))
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            seen.add(UserError)
            continue
        assert len(found) == len(lines), "each line is a row or a rejection"
        seen |= set(map(type, found))
    assert seen == {Entry, Rejected, UserError}


def test_a_caption_of_a_megabyte_is_cut_at_once():
    tokenizer = Tokenizer(train_vocabulary(["a red circle", "the blue square"] * 5, 60))
    begin = time.process_time()
    assert len(tokenizer.encode("redcircle" * 120_000, 20)) == 20
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("text", ["a 😀 b", "红色 圆", "\u202eabc", " ", "a\u2028b\u0085c", "\0"])
def test_texts_of_any_script_become_pieces_or_unknown_and_never_control_tokens(text):
    tokenizer = Tokenizer(train_vocabulary(["a red circle", "the blue square"] * 5, 60))
    ids = tokenizer.encode(text)
    assert all(2 <= i < tokenizer.num_pieces for i in ids)
    tokenizer.decode(ids)
