"""The page of vt-serve: what it answers, what it lets out, and whom it answers at all."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.browser import CONTRASTS, DESKTOP, LEAST_CONTRAST, PHONE, Page, chromium
from tests.commands import command_line, environment
from tests.media import read_numbers, write_folder, write_numbered
from vt_fairseq import VideoTranslate
from vt_fairseq.cli import serve
from vt_fairseq.cli.inputs import find_videos
from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.library.indexing import held
from vt_fairseq.library.store import Store
from vt_fairseq.video.images import decode_image
from vt_fairseq.visible_text import visible

pytest.importorskip("starlette", reason="the extra serve is not installed")
from starlette.testclient import TestClient

from vt_fairseq.serve.app import MAX_BODY, MAX_TEXT, LibraryServer
from vt_fairseq.serve.worker import MOST_WAITING, Worker

BASE = "http://127.0.0.1:8000"
NAMES = frozenset({"localhost"})
QUERY, QUESTION, CANDIDATES = "a red circle slides", "what is it ?", ["a red circle", "blue"]
HOSTILE = "<img src=x onerror='window.hacked=1'><b>\u202egnp.mp4"


@pytest.fixture(scope="module")
def videos(data_directory, tmp_path_factory) -> list[str]:
    """Some videos, one of a hostile name."""
    folder = tmp_path_factory.mktemp("served") / "videos"
    folder.mkdir()
    found = sorted((data_directory / "world" / "videos").glob("t*.mp4"))[:2]
    return [shutil.copy(found[0], folder), shutil.copy(found[1], folder / HOSTILE)]


@pytest.fixture(scope="module")
def path(vt, videos, tmp_path_factory) -> Path:
    """A library of them, in parts, and of a numbered video from 1 s to 3 s."""
    folder = tmp_path_factory.mktemp("library")
    numbered = write_numbered(folder / "numbered.mp4", 100)
    frames = write_folder(folder / "frames", 12)
    vt.index(folder / "a.vtlib", videos, every=3).close()
    vt.index(folder / "a.vtlib", [numbered], start=1.0, end=3.0).close()
    vt.index(folder / "a.vtlib", [frames]).close()
    return folder / "a.vtlib"


@contextmanager
def served(
    vt: VideoTranslate, path: Path, below: Path | None = Path("/"), **token: str
) -> Iterator[TestClient]:
    """A client of a server of this library."""
    server = LibraryServer(vt, path, lambda name: find_videos([name]), below)
    with TestClient(server.app(NAMES, **token), base_url=BASE) as client:
        client.server = server
        yield client


@pytest.fixture(scope="module")
def client(vt, path) -> Iterator[TestClient]:
    with served(vt, path) as one:
        yield one


def segment_of(client: TestClient, name: str) -> dict:
    """The first segment of the video whose name begins so."""
    segments = client.get("/segments").json()["segments"]
    return next(one for one in segments if one["name"].startswith(name))


# What it answers


def test_searches_and_answers_are_those_of_the_library(client, vt, path):
    with closing(vt.library(path)) as library:
        status = client.get("/status").json()
        assert (status["segments"], status["videos"]) == (len(library), len(library.videos()))
        assert [one["id"] for one in client.get("/segments").json()["segments"]] == [
            one.id for one in library.captions()
        ]
        assert len(client.get("/segments?offset=2").json()["segments"]) == len(library) - 2
        answer = client.post("/search", json={"query": QUERY, "top": 3}).json()
        (expected,) = library.search([QUERY], top=3)
        assert [(one["id"], one["score"]) for one in answer["results"]] == [
            (one.segment.id, pytest.approx(one.score, abs=1e-4)) for one in expected
        ]
        best = expected[0].segment
        assert answer["results"][0]["caption"] == best.caption and answer["seconds"] > 0
        like = client.post("/search", json={"like": best.id, "top": 2}).json()["results"]
        same = library.like(best.path, segment=best, top=2)
        assert [one["id"] for one in like] == [one.segment.id for one in same]
        asked = {"segment": best.id, "question": QUESTION, "candidates": CANDIDATES}
        (chosen,) = library.ask(QUESTION, CANDIDATES, segments=[best])
        answers = client.post("/ask", json=asked).json()["answers"]
        assert [one["text"] for one in answers] == list(chosen.texts)
        assert [one["probability"] for one in answers] == pytest.approx(chosen.probabilities)
        free = client.post("/ask", json={**asked, "candidates": []}).json()["answers"]
        (written,) = library.ask(QUESTION, segments=[best])
        assert [one["text"] for one in free] == list(written.texts)
        word = next(o.caption.split()[0] for o in library.captions() if (o.caption or "").split())
        quick = client.post("/search", json={"query": word, "shortlist": 1}).json()["results"]
        (short,) = library.search([word], shortlist=1)
        assert [one["id"] for one in quick] == [one.segment.id for one in short]


def test_a_picture_is_of_four_moments_of_the_segment(client, tmp_path):
    one = segment_of(client, "numbered")
    assert (one["start"], one["end"], one["whole"], one["plays"]) == (1, 3, False, True)
    answer = client.get(f"/segments/{one['id']}/picture")
    assert answer.headers["content-type"] == "image/jpeg"
    (tmp_path / "a.jpg").write_bytes(answer.content)
    picture = decode_image(tmp_path / "a.jpg").to_ndarray(format="rgb24")
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    quarters = [picture[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    # The middles of four equal parts of 1 s to 3 s, at 25 frames per second.
    moments = [1 + 2 * (k + 0.5) / 4 for k in range(4)]
    assert read_numbers(np.stack(quarters)) == [int(25 * seconds) for seconds in moments]
    frames = segment_of(client, "frames")
    assert not frames["plays"]
    assert client.get(f"/segments/{frames['id']}/picture").status_code == 200
    assert "folder of frames" in client.get(f"/segments/{frames['id']}/video").json()["error"]


def test_a_video_is_sent_in_the_parts_that_a_player_asks_for(client, videos):
    one, content = segment_of(client, "t"), Path(videos[0]).read_bytes()
    address = f"/segments/{one['id']}/video"
    whole = client.get(address)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    part = client.get(address, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
    last = client.get(address, headers={"Range": "bytes=-5"})
    assert (last.status_code, last.content) == (206, content[-5:])
    assert client.get(address, headers={"Range": f"bytes={len(content)}-"}).status_code == 416
    assert client.head(address).headers["content-length"] == str(len(content))


# What it lets out


@pytest.mark.parametrize(
    "address",
    [
        *("/segments/999999/video", "/segments/999999/picture", "/segments/-1/video"),
        *("/segments/..%2f..%2fetc%2fpasswd/video", "/segments//etc/passwd", "/page.js/../a"),
        *("/%2e%2e/setup.py", "/segments/1e3/video", "/segments/9" + "9" * 40 + "/video"),
    ],
)
def test_nothing_is_sent_but_the_page_and_segments_of_the_library(client, address):
    assert client.get(address).status_code in (400, 404)


def test_a_file_is_sent_only_as_it_was_indexed_and_only_if_it_is_a_video(vt, videos, tmp_path):
    path, secret, own = tmp_path / "a", tmp_path / "secret.mp4", tmp_path / "own.mp4"
    secret.write_text("a key of somebody\n" * 99)
    shutil.copy(videos[0], own)
    vt.index(path, [own]).close()
    with served(vt, path) as client:
        address = f"/segments/{segment_of(client, 'own')['id']}"
        assert client.get(f"{address}/video").status_code == 200
        state = os.stat(own)
        os.utime(own, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        for what in ("video", "picture"):
            answer = client.get(f"{address}/{what}")
            assert (answer.status_code, answer.json()["error"]) == (
                404, "it has changed since it was indexed: index it again")  # fmt: skip
        own.unlink()
        answer = client.get(f"{address}/video")
        assert (answer.status_code, answer.json()["error"]) == (404, "No such file or directory")
        # What a stranger can write into a library: any path, with its true size and time.
        for target in (secret, Path("/dev/zero"), tmp_path):
            state = os.stat(target)
            with closing(Store(path, writable=True)) as store, store.transaction():
                store._db.execute(
                    "UPDATE files SET path = ?, size = ?, modified = ?",
                    (os.fsencode(target), state.st_size, state.st_mtime_ns),
                )
            for what in ("video", "picture"):
                answer = client.get(f"{address}/{what}")
                assert answer.status_code == 404 and "key of" not in answer.text
                assert stat.S_ISREG(state.st_mode) <= ("not a video" in answer.json()["error"])


# Whom it answers


@pytest.mark.parametrize(
    ("host", "code"),
    [
        *[(host, 200) for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:8000", "[::1]:8000")],
        *[(host, 200) for host in ("192.168.1.5:8000", "0.0.0.0")],
        *[(host, 403) for host in ("evil.com", "evil.com:8000", "localhost.evil.com", "", "a b")],
        *[(host, 403) for host in ("127.0.0.1.evil.com", "[::1", "evil.com#@127.0.0.1", "1")],
    ],
)
def test_names_that_point_here_by_a_strangers_dns_are_refused(client, host, code):
    for address in ("/", "/status"):
        assert client.get(address, headers={"Host": host}).status_code == code


@pytest.mark.parametrize(
    "headers",
    [
        *[{"Sec-Fetch-Site": site} for site in ("cross-site", "same-site")],
        *[{"Origin": o} for o in ("https://evil.com", "null", "http://127.0.0.1:9000", "http://[")],
    ],
)
def test_requests_of_other_sites_are_refused(client, headers):
    for address in ("/search", "/ask", "/index", "/stop"):
        assert client.post(address, json={}, headers=headers).status_code == 403
    assert client.get("/status", headers=headers).status_code == 403
    assert client.get("/segments/1/video", headers=headers).status_code == 403
    opened = client.get("/", headers=headers).status_code  # a link to the page leads to it
    assert opened == (200 if "Sec-Fetch-Site" in headers else 403)


def test_requests_of_its_own_page_are_answered_and_those_of_forms_refused(client):
    own = {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/search", json={"query": QUERY}, headers=own).status_code == 200
    content = json.dumps({"query": QUERY})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.post("/search", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert client.get("/search").status_code == 405


def test_with_a_token_nothing_is_told_to_who_does_not_know_it(vt, path):
    with served(vt, path, token="a-secret") as client:
        for address in ("/", "/page.js", "/status", "/segments/1/video", "/none", "/?token=b"):
            answer = client.get(address)
            assert answer.status_code == 401 and "token" in answer.json()["error"]
            assert "set-cookie" not in answer.headers and "a-secret" not in answer.text
        assert client.post("/search", json={"query": QUERY}).status_code == 401
        for wrong in ("Bearer b", "Basic a-secret", "Bearer \u20ac".encode()):
            assert client.get("/status", headers={"Authorization": wrong}).status_code == 401
        headers = {"Authorization": "Bearer a-secret"}
        assert client.get("/status", headers=headers).status_code == 200
        assert client.get("/status").status_code == 401
        cookie = client.get("/?token=a-secret").headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert client.get("/status").status_code == 200  # by the cookie
        assert client.get("/status", headers={"Host": "evil.com"}).status_code == 403


def test_two_servers_of_one_host_do_not_log_each_other_out(vt, path):
    """A browser keeps its cookies by host, whatever the port."""
    with served(vt, path, token="a-secret") as one, served(vt, path, token="b-secret") as other:
        assert one.get("/?token=a-secret").status_code == 200
        other.cookies = one.cookies
        assert other.get("http://127.0.0.1:8001/status").status_code == 401
        assert other.get("http://127.0.0.1:8001/?token=b-secret").status_code == 200
        one.cookies = other.cookies
        assert one.get("/status").status_code == 200
        assert other.get("http://127.0.0.1:8001/status").status_code == 200
        assert one.get("/status", headers={"Host": "127.0.0.1:99999"}).status_code == 401


def test_every_answer_forbids_scripts_frames_and_guesses(client):
    addresses = ["/", "/page.js", "/status", "/none", "/segments/1/video", "/segments/1/picture"]
    answers = [*map(client.get, addresses), client.get("/", headers={"Host": "evil.com"})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and "require-trusted-types-for" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers


BAD = [
    *[b"", b"[]", b"{", b"\xff", b'"a"', b"[" * 50_000, b'{"query": 1e999}'],
    b'{"query": "' + b"a" * MAX_BODY + b'"}',
    *[
        json.dumps(value).encode()
        for value in (
            *({}, {"query": ""}, {"query": " \n"}, {"query": 3}, {"query": ["a"]}),
            *({"query": "a" * (MAX_TEXT + 1)}, {"query": "half \ud800"}),
            *({"query": "a", "top": 0}, {"query": "a", "top": True}, {"query": "a", "top": "3"}),
            *({"query": "a", "top": float("nan")}, {"query": "a", "top": 10**30}),
            *({"query": "a", "shortlist": 0}, {"like": 999_999}, {"like": None}, {"like": -1}),
        )
    ],
]


@pytest.mark.parametrize("content", BAD, ids=lambda content: repr(content[:40]))
def test_questions_that_are_none_are_refused_in_one_line(client, content):
    answer = client.post("/search", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and "\n" not in answer.json()["error"]
    assert client.post("/search", json={"query": QUERY, "top": 1}).status_code == 200


def test_candidates_and_segments_that_are_none_are_refused(client):
    asked = {"segment": segment_of(client, "t")["id"], "question": QUESTION}
    for change in (
        *({"segment": 999_999}, {"segment": "1"}, {"question": ""}, {"candidates": "a"}),
        *({"candidates": [""]}, {"candidates": [3]}, {"candidates": ["a"] * 65}),
    ):
        assert client.post("/ask", json=asked | change).status_code == 400
    assert client.get("/segments?offset=a").status_code == 404
    assert client.get(f"/segments?offset={10**30}").json() == {"segments": []}


def test_hostile_names_are_spelled_out(client):
    segments = client.get("/segments").json()["segments"]
    assert HOSTILE.replace("\u202e", "\\u202e") in {one["name"] for one in segments}
    assert not any("\u202e" in one["path"] + one["name"] for one in segments)


# One thread for the model


def test_calls_take_turns_in_one_thread_and_go_first_in_the_pauses_of_a_long_one():
    worker, order, begun, go_on = Worker(), [], threading.Event(), threading.Event()

    def note(name: str) -> str:
        order.append((name, threading.get_ident()))
        return name

    def long() -> None:
        note("long begins")
        begun.set()
        assert go_on.wait(20)
        worker.let_others()
        note("long ends")

    calls: list[Future] = [worker.call(long)]
    assert begun.wait(20)
    calls += [worker.call(lambda name=name: note(name)) for name in ("first", "second")]
    failing = worker.call(lambda: 1 / 0)
    go_on.set()
    assert [call.result(20) for call in calls] == [None, "first", "second"]
    assert isinstance(failing.exception(20), ZeroDivisionError)
    assert worker.call(lambda: note("third")).result(20) == "third"
    assert [name for name, _ in order] == ["long begins", "first", "second", "long ends", "third"]
    assert len({thread for _, thread in order}) == 1 and threading.get_ident() != order[0][1]
    worker.close(20)
    with pytest.raises(RunFailure):
        worker.call(lambda: None)


def test_too_many_calls_are_refused_and_the_rest_answered():
    worker, go_on = Worker(), threading.Event()
    held_up = worker.call(lambda: go_on.wait(20))
    while len(worker):
        time.sleep(0.01)
    calls = [worker.call(lambda: 7) for _ in range(MOST_WAITING)]
    with pytest.raises(RunFailure, match="ask again later"):
        worker.call(lambda: 8)
    go_on.set()
    assert held_up.result(20) and {call.result(20) for call in calls} == {7}
    worker.close(20)


# Adding


def ended(client: TestClient) -> dict:
    """The state of what was added, when that is over."""
    for _ in range(2400):
        job = client.get("/status").json()["indexing"]
        if job["state"] != "running":
            return job
        time.sleep(0.05)
    raise AssertionError("it does not end")


def test_a_folder_is_added_as_vt_index_would_while_questions_are_answered(
    vt, videos, tmp_path, monkeypatch
):
    folder, path = tmp_path / "more", tmp_path / "a"
    shutil.copytree(Path(videos[0]).parent, folder)
    (folder / "broken.mp4").write_bytes(b"no video")
    vt.index(path, [videos[0]]).close()
    monkeypatch.setattr(vt, "batch_size", 2)
    with served(vt, path) as client:
        asked: dict = {}
        answered = threading.Event()
        let_others = client.server.worker.let_others

        def asking() -> None:
            # In the first pause a question waits already.
            if not asked:
                asked["of"] = client.server.worker.call(answered.set)
            let_others()

        client.server.worker.let_others = asking
        started = client.post("/index", json={"folder": str(folder), "every": 3}).json()
        assert (started["videos"], started["state"]) == (3, "running")
        job = ended(client)
        assert answered.is_set()
        assert (job["state"], job["done"], job["failed"]) == ("done", 3, 1)
        assert [Path(video).name for video, _ in job["failures"]] == ["broken.mp4"]
        found = client.post("/search", json={"query": QUERY, "top": 99}).json()["results"]
    vt.index(tmp_path / "b", [videos[0]]).close()
    added = [str(folder / name) for name in sorted(os.listdir(folder))]
    with closing(vt.index(tmp_path / "b", added, every=3)) as library:
        (expected,) = library.search([QUERY], top=99)
        assert [(one["path"], one["start"], one["caption"], one["score"]) for one in found] == [
            (visible(one.segment.path), one.segment.start, one.segment.caption, one.score)
            for one in expected
        ]


def test_adding_is_stopped_after_its_batch_and_goes_on_from_there(
    vt, videos, tmp_path, monkeypatch
):
    path = tmp_path / "a"
    vt.index(path, [videos[0]]).close()
    monkeypatch.setattr(vt, "batch_size", 1)
    folder = {"folder": str(Path(videos[0]).parent), "every": 1}
    with served(vt, path) as client:
        let_others = client.server.worker.let_others

        def stopping() -> None:
            client.server.indexing.is_stopped = True
            let_others()

        client.server.worker.let_others = stopping
        client.post("/index", json=folder)
        assert ended(client)["state"] == "stopped"
        first = client.get("/status").json()["segments"]
        assert first == 2  # the one that was there, and one batch
        client.server.worker.let_others = let_others
        client.post("/index", json=folder)
        assert ended(client)["state"] == "done"
        assert client.get("/status").json()["segments"] > first
        assert client.post("/stop", json={}).status_code == 200


def test_what_may_not_be_added_is_refused_with_the_reason(vt, videos, tmp_path):
    path, below = tmp_path / "a", tmp_path / "below"
    below.mkdir()
    (below / "out").symlink_to(Path(videos[0]).parent)
    vt.index(path, [videos[0]]).close()

    def refusal(client: TestClient, **asked: object) -> str:
        answer = client.post("/index", json=asked)
        assert answer.status_code == 400
        return answer.json()["error"]

    with served(vt, path, below=below) as client:
        for place in (tmp_path, below / ".." / "b", below / "out", "/", Path(f"{below}x")):
            assert "only what lies below" in refusal(client, folder=str(place))
        assert "no file or folder" in refusal(client, folder=str(below / "none"))
        for name in ("*", "-", "**/*.mp4"):
            assert "below" in refusal(client, folder=name)
        assert "holds no videos" in refusal(client, folder=str(below))
        for every in (0, -1, "3", True, float("inf")):
            content = json.dumps({"folder": str(below), "every": every})
            answer = client.post(
                "/index", content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 400 and "every" in answer.json()["error"]
        shutil.copy(videos[0], below / "one.mp4")
        child = os.fork()
        if child == 0:
            with held(path):
                (tmp_path / "ready").touch()
                time.sleep(60)
            os._exit(0)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        try:
            assert client.post("/index", json={"folder": str(below / "one.mp4")}).status_code == 200
            assert f"process {child} on" in ended(client)["state"]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        client.server.indexing.state = "running"
        assert "being added already" in refusal(client, folder=str(below / "one.mp4"))
    with served(vt, path, below=None) as client:
        assert not client.get("/status").json()["may_add"]
        assert "--add-below" in refusal(client, folder=str(below))


# The command


def test_the_command_serves_this_machine_alone_until_it_is_interrupted(path, trained):
    command = command_line("vt-serve", path, "--port", "0", "--device", "cpu")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    try:
        line = process.stdout.readline()
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/(?= )", line)
        with urllib.request.urlopen(f"{address}status") as answer:
            assert json.load(answer)["name"] == "a.vtlib"
        with pytest.raises(UserError, match=r"--port \d+: another program listens there"):
            serve.listen("127.0.0.1", int(address.rsplit(":")[-1].strip("/")))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and process.stdout.read() == ""
    finally:
        process.kill()


def test_where_others_can_reach_it_the_address_has_a_token():
    with serve.listen("0.0.0.0", 0) as open_to_all, serve.listen("::1", 0) as own:
        assert serve.is_local(own) and not serve.is_local(open_to_all)
        shown = serve.address("0.0.0.0", open_to_all, "abc")
        port = open_to_all.getsockname()[1]
        assert shown == f"http://{socket.gethostname()}:{port}/?token=abc"
        assert serve.address("::1", own, None) == f"http://[::1]:{own.getsockname()[1]}/"
    assert serve.names_of("127.0.0.1", True) == {"localhost", "127.0.0.1"}
    assert socket.gethostname().lower() in serve.names_of("0.0.0.0", False)


def test_mistakes_of_the_command_are_one_line(call_main, path, tmp_path, monkeypatch):
    for arguments, message in (
        ([tmp_path / "none"], "no library at"),
        ([path, "--host", "203.0.113.7"], "--host 203.0.113.7: no address of this machine"),
        ([path, "--host", "no.such.invalid"], "--host no.such.invalid: no such address"),
        ([path, "--port", "70000"], "expected a number from 0 to 65535"),
        ([path, "--add-below", tmp_path / "none"], "--add-below"),
    ):
        code, out, err = call_main(serve.main, *arguments, "--device", "cpu")
        assert (code, out) == (2, "") and message in err, err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = call_main(serve.main, path)
    assert code == 2 and err.count("\n") == 1 and "pip install 'vt_fairseq[serve]'" in err


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module")
def address(browser, path, trained) -> Iterator[str]:
    """Of a server of the library, in a process of its own."""
    command = command_line("vt-serve", path, "--port", "0", "--device", "cpu")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    yield re.findall(r"http://\S+", process.stdout.readline())[0]
    process.kill()
    process.wait()


CARDS = "document.querySelectorAll('#results > li').length"


@pytest.fixture
def page(browser, address) -> Page:
    """The page, just opened on a desktop."""
    browser.look(DESKTOP, dark=False)
    browser.events.clear()
    browser.visit("about:blank")
    browser.visit(address)
    browser.wait(f"{CARDS} > 3")
    return browser


def test_in_a_browser_no_hostile_text_runs_and_only_this_server_is_asked(page, address):
    for key in "/<b>":
        page.press(key)
    page.press("Enter")
    page.wait("document.getElementById('message').textContent.includes('likeliest')")
    page.wait("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert "<img src=x onerror=" in page.run("document.getElementById('results').textContent")
    assert page.run("typeof window.hacked") == "undefined"
    assert page.happened("Runtime.exceptionThrown") == page.happened("Log.entryAdded") == []
    asked = {event["request"]["url"] for event in page.happened("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith(address)} <= {"about:blank"}
    page.run("""(() => {
      const script = document.createElement("script");
      try { script.textContent = "window.hacked = 1"; document.body.append(script); } catch {}
      try { document.body.innerHTML += "<img src=x onerror='window.hacked = 1'>"; } catch {}
    })()""")
    assert page.run("typeof window.hacked") == "undefined"


def test_in_a_browser_it_is_searched_played_and_asked_with_keys_alone(page):
    page.press("/")
    for key in "red":
        page.press(key)
    page.press("Enter")
    page.wait("document.getElementById('message').textContent.includes('likeliest')")
    assert page.run("location.hash") == "#q=red"
    page.run("document.activeElement.blur()")
    page.press("j")
    for _ in range(9):  # to one that begins later than its video
        if page.run("document.activeElement.textContent.includes('numbered')"):
            break
        page.press("j")
    page.press("p")
    page.wait("document.querySelector('video')?.readyState >= 2")
    time = page.run("document.querySelector('video').currentTime")
    assert 1 <= time < 3  # where the segment lies
    page.press("Escape")
    assert page.run("document.querySelector('video')") is None
    assert page.run("document.activeElement.tagName") == "LI"
    page.press("a")
    assert page.run("document.activeElement.placeholder") == "what is it ?"
    for key in "what ?":
        page.press(key)
    page.press("Tab")
    for key in ("a", "Enter", "b"):
        page.press(key)
    page.press("Tab")
    page.press("Enter")
    page.wait("document.querySelectorAll('.answers meter').length === 2")
    shares = page.run(
        "[...document.querySelectorAll('.answers b')].map((b) => parseFloat(b.textContent))"
    )
    assert sum(shares) == pytest.approx(100, abs=0.11) and shares == sorted(shares, reverse=True)
    page.press("Escape")
    page.press("m")
    page.wait("document.getElementById('message').textContent.includes('looks like')")
    page.run("history.back()")


def test_in_a_browser_a_folder_is_added_and_its_failures_are_named(page, tmp_path):
    (tmp_path / "<b>bad.mp4").write_bytes(b"no video")
    page.run("document.getElementById('adding').open = true")
    page.run(f"document.getElementById('folder').value = {json.dumps(str(tmp_path))}")
    page.run("document.querySelector('#add [type=submit]').click()")
    page.wait("document.getElementById('progress').textContent.endsWith('done')")
    assert "1 not read" in page.run("document.getElementById('progress').textContent")
    assert "<b>bad.mp4" in page.run("document.getElementById('failures').textContent")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_in_a_browser_all_is_legible_and_nothing_is_wider_than_the_screen(page, width, dark):
    page.look(width, dark)
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.run("document.querySelectorAll('[data-key=a]').forEach((b) => b.click())")
    assert {k: v for k, v in page.run(CONTRASTS).items() if v < LEAST_CONTRAST} == {}
    assert page.run("document.documentElement.scrollWidth") <= width
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background))) < 60) == dark
