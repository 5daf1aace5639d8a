"""Twenty-five hostile entries of a manifest: which are opened, and who is called for them.

Addresses, FFmpeg's protocols, paths and a link that lead out of the folder of videos, playlists and
scripts, some of them under a video's name. Each is opened in a process of its own. *Opened* means
that a frame was decoded. A server on this machine, which answers every GET with a video, counts its
connections.
"""

import base64
import collections
import contextlib
import os
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path

import av

from tests import media
from tests.faults.forks import in_a_process
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import VideoError
from vt_fairseq.video.containers import FORMATS
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

SECONDS = 10.0  # after which an entry counts as waiting
WHITELISTS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}


class Server(socketserver.ThreadingTCPServer):
    """Listens on this machine, counts connections, and sends ``video`` to who says GET."""

    daemon_threads, connections, video = True, 0, b""


class Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.connections += 1
        with contextlib.suppress(OSError):
            self.request.settimeout(1)
            if self.request.recv(4096).startswith(b"GET"):
                header = f"HTTP/1.0 200 OK\r\nContent-Length: {len(self.server.video)}\r\n\r\n"
                self.request.sendall(header.encode() + self.server.video)


def make_entries(folder: Path, port: int) -> list[str]:
    """The entries; the files among them are made below ``folder``/videos, a secret beside it."""
    videos, secret = folder / "videos", folder / "secret.mp4"
    videos.mkdir()
    url = f"http://127.0.0.1:{port}/a.mp4"
    media.write_numbered(secret, 10)
    (videos / "link.mp4").symlink_to(secret)
    inline = base64.b64encode(secret.read_bytes()).decode()
    files = {}
    for name, target in (("web", url), ("local", str(secret))):
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n"
        files |= {f"{name}.m3u8": playlist, f"{name}-playlist.mp4": playlist}
        script = f"ffconcat version 1.0\nfile '{target}'\n"
        files |= {f"{name}.ffconcat": script, f"{name}-script.mp4": script}
    files["call.sdp"] = (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    for name, text in files.items():
        (videos / name).write_text(text)
    return [
        url,
        *(f"{scheme}://127.0.0.1:{port}/a" for scheme in ("tcp", "rtsp", "rtmp", "ftp")),
        *(f"{protocol}:{secret}" for protocol in ("file", "cache", "async", "crypto")),
        f"concat:{secret}|{secret}",
        f"subfile,,start,0,end,0,,:{secret}",
        f"data:video/mp4;base64,{inline}",
        "pipe:0",
        *("../secret.mp4", str(secret), "link.mp4"),
        *files,
    ]


def by_pyav(**options: str) -> Callable[[Path, str], None]:
    """Open an entry as PyAV does in the folder of videos; raise when it does not."""

    def call(videos: Path, entry: str) -> None:
        os.chdir(videos)
        with av.open(entry, options=options, timeout=(5, 5)) as container:
            next(container.decode(video=0))

    return call


def by_data_set(videos: Path, entry: str) -> None:
    """Read an entry as a row of a data set whose video root is the folder of videos."""
    sampling, transform = FrameSampling(num_frames=8), ClipTransform(28, train=False)
    ClipLoader(videos, sampling, transform, "center")(ClipRow("1", entry), None)


def tried(call: Callable[[Path, str], None], videos: Path, entry: str) -> str:
    """ "opened", "refused" or "waits"."""

    def attempt() -> str:
        try:
            call(videos, entry)
        except (VideoError, av.FFmpegError, OSError, ValueError, StopIteration):
            return "refused"
        return "opened"

    how, answer = in_a_process(attempt, SECONDS)
    return "waits" if how == "hung" else str(answer)


def measure(folder: Path, ways: dict[str, Callable[[Path, str], None]]) -> dict[str, dict]:
    """What each way does with the entries, and how often the server is called."""
    server = Server(("127.0.0.1", 0), Answer)
    server.video = media.write_numbered(folder / "sound.mp4", 10).read_bytes()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entries = make_entries(folder, server.server_address[1])
    found = {}
    for name, call in ways.items():
        before = server.connections
        outcomes = {entry: tried(call, folder / "videos", entry) for entry in entries}
        shown = [
            entry.replace(str(folder), "").replace(f":{server.server_address[1]}", "")[:60]
            for entry, outcome in outcomes.items()
            if outcome != "refused"
        ]
        counts = collections.Counter(outcomes.values())
        found[name] = {
            "entries": len(entries),
            "opened": counts["opened"],
            "waits": counts["waits"],
            "connections": server.connections - before,
            "not refused": shown,
        }
    server.shutdown()
    server.server_close()
    return found


OTHERS = {"PyAV": by_pyav(), "PyAV with both whitelists": by_pyav(**WHITELISTS)}


def test_of_all_hostile_entries_none_is_opened_and_nobody_is_called(tmp_path, campaign, record):
    found = measure(tmp_path, {**(OTHERS if campaign else {}), "vt_fairseq": by_data_set})
    for name, counts in found.items():
        record(name, counts)
    expected = {"entries": 25, "opened": 0, "waits": 0, "connections": 0, "not refused": []}
    assert found["vt_fairseq"] == expected
