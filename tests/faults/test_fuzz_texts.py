"""A short run of ``benchmarks/fuzz_texts.py``."""

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is among the packages of [test]")

from benchmarks import fuzz_texts


@pytest.mark.parametrize("kind", fuzz_texts.KINDS)
def test_damaged_texts_give_rows_and_counted_rejections_or_one_line(kind, tmp_path):
    sound = fuzz_texts.write(fuzz_texts.SOUND[kind], tmp_path / "sound")
    assert fuzz_texts.read(kind, sound) == "read"
    outcomes = fuzz_texts.fuzz(kind, examples=15, seed=7)
    assert outcomes.total() == 15 and outcomes["refused"]
