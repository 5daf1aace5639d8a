"""examples/pictures.py: README's first pictures, made of a quickstart's results."""

import runpy
import sys

import av

from tests.commands import ROOT
from tests.corpora import write_jsonl
from vt_fairseq.data.manifest import DataDirectory


def test_the_first_clips_become_pictures_and_rows_of_a_table(
    data_directory, tmp_path, monkeypatch, capsys
):
    rows = list(DataDirectory.open(data_directory).manifest("test"))
    (tmp_path / "data").symlink_to(data_directory)
    said = ["nothing", *(row.captions[0] for row in rows[1:])]
    captions = [{"id": row.id, "prediction": text} for row, text in zip(rows, said, strict=True)]
    write_jsonl(tmp_path / "caption-test" / "predictions.jsonl", *captions)
    answers = [{"id": row.id, "prediction": row.answer} for row in rows]
    write_jsonl(tmp_path / "vqa-test" / "predictions.jsonl", *answers)
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(tmp_path), str(tmp_path)])
    runpy.run_path(str(ROOT / "examples" / "pictures.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == 3
    assert f"| nothing ({rows[0].captions[0]}) |" in lines[0]
    assert f"| {said[1]} |" in lines[1] and rows[1].question in lines[1]
    for number in (1, 2, 3):
        with av.open(str(tmp_path / f"miniworld-{number}.png")) as picture:
            (frame,) = picture.decode(video=0)
        assert (frame.width, frame.height) == (6 * 64, 64)
