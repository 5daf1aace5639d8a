import json

import pytest

from vt_fairseq.errors import UserError
from vt_fairseq.scoring import records

SETTINGS = {"path": "abc", "clips": 1}


def record(name: str, scores) -> dict:
    return {"id": name, "scores": scores}


def written(folder, rank: int, *batches) -> None:
    writer = records.PartWriter(folder, rank)
    for batch in batches:
        writer.append(batch)
    writer.close()


def test_records_of_several_processes_are_merged_in_the_order_of_the_rows(tmp_path):
    records.claim(tmp_path, SETTINGS, restart=False)
    written(tmp_path, 1, [record("c", [3.0]), record("d", [4.0])])
    written(tmp_path, 0, [record("a", [1.0])], [record("b", None)])
    records.merge(tmp_path, ["a", "b", "c", "d"])
    assert [r["id"] for r in records.read(tmp_path)] == ["a", "b", "c", "d"]
    assert [r["scores"] for r in records.read(tmp_path)] == [[1.0], None, [3.0], [4.0]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.jsonl", "settings.json"]


def test_what_a_kill_cut_off_is_not_a_record_and_does_not_spoil_the_next(tmp_path):
    written(tmp_path, 0, [record("a", [1.0])])
    part = tmp_path / "scores.part0.jsonl"
    whole = part.read_bytes()
    for cut in (b'{"id": "b", "sco', b'{"id": "b", "scores": [2.0]}'):
        part.write_bytes(whole + cut)
        assert list(records.find(tmp_path)) == ["a"]
        written(tmp_path, 0, [record("c", [3.0])])
        assert list(records.find(tmp_path)) == ["a", "c"]
    part.write_bytes(b'{"id"')
    written(tmp_path, 0)
    assert part.read_bytes() == b""


def test_a_row_that_could_be_read_at_last_replaces_its_missing_record(tmp_path):
    written(tmp_path, 0, [record("a", None), record("b", [2.0])])
    places = records.find(tmp_path)
    assert not places["a"].scored and places["b"].scored
    written(tmp_path, 1, [record("a", [1.0]), record("b", None)])
    records.merge(tmp_path, ["a", "b"])
    assert [r["scores"] for r in records.read(tmp_path)] == [[1.0], [2.0]]


def test_scores_of_other_settings_are_refused_by_name_or_thrown_away(tmp_path):
    records.claim(tmp_path, SETTINGS, restart=False)
    records.claim(tmp_path, SETTINGS, restart=False)
    written(tmp_path, 0, [record("a", [1.0])])
    with pytest.raises(UserError, match=r"other settings \(clips, fuse\)"):
        records.claim(tmp_path, {"path": "abc", "clips": 10, "fuse": "x"}, restart=False)
    records.claim(tmp_path, {"path": "abc", "clips": 10}, restart=True)
    assert not records.find(tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["clips"] == 10


def test_scores_of_unknown_settings_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "scores.jsonl").write_text('{"id": "a", "scores": [1]}\n')
    with pytest.raises(UserError, match=r"no settings.json"):
        records.claim(tmp_path, SETTINGS, restart=False)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        records.claim(tmp_path, SETTINGS, restart=False)
    (tmp_path / "scores.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match="no record"):
        records.find(tmp_path)


def test_numbers_that_are_none_are_not_written(tmp_path):
    with pytest.raises(ValueError):
        records.as_line(record("a", [float("nan")]))
