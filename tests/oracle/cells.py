"""Small files of many kinds: containers x codecs x anomalies, each frame carrying its number.

A cell is one file: ``mkv-h264b-vfr``. ``CELLS`` lists all; ``make`` writes one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.media import HEIGHT, WIDTH, numbered_frame
from tests.oracle import patches
from tests.oracle.programs import ffmpeg

COUNT = 60  # frames in a file
CODECS_EACH = 2  # of a container's codecs, taken in turns, have each anomaly
SECOND_PART = 1000  # number of the first frame in what is joined to a file
RAW = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}")
NEAREST = "scale={}:{}:flags=neighbor"

# --- codecs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codec:
    """How ffmpeg encodes; ``filters`` come after all others."""

    arguments: str
    filters: str = ""


def _x264(parameters: str, more: str = "", filters: str = "") -> Codec:
    return Codec(f"-c:v libx264 -preset veryfast -x264-params {parameters} {more}", filters)


def _x265(parameters: str, more: str = "") -> Codec:
    calm = "pools=none:frame-threads=1:log-level=none"
    return Codec(f"-c:v libx265 -preset ultrafast -x265-params {calm}:{parameters} {more}")


YUV = "-pix_fmt yuv420p"
CODECS = {
    "h264": _x264("keyint=12:scenecut=0:bframes=0", YUV),
    "h264b": _x264("keyint=15:scenecut=0:bframes=3:b-pyramid=normal:b-adapt=0", YUV),
    "h264open": _x264("keyint=15:scenecut=0:bframes=3:b-adapt=0:open-gop=1", YUV),
    "h264refresh": _x264("keyint=12:scenecut=0:bframes=0:intra-refresh=1", YUV),
    "h264mbaff": _x264("keyint=15:scenecut=0:bframes=2:tff=1", f"{YUV} -flags +ilme+ildct"),
    "h264ten": _x264("keyint=15:scenecut=0:bframes=2", "-pix_fmt yuv420p10le"),
    "h264full": _x264("keyint=15:scenecut=0:bframes=2", "-pix_fmt yuv444p"),
    "h264odd": _x264("keyint=15:scenecut=0", "-pix_fmt yuv444p", NEAREST.format(131, 97)),
    "hevc": _x265("keyint=15:bframes=3:open-gop=0", YUV),
    "hevcopen": _x265("keyint=15:scenecut=0:bframes=3:b-adapt=0:open-gop=1", YUV),
    "hevclayers": _x265("keyint=16:bframes=3:b-adapt=0:temporal-layers=1", YUV),
    "hevcten": _x265("keyint=15:bframes=2", "-pix_fmt yuv420p10le"),
    "mpeg4": Codec("-c:v mpeg4 -q:v 3 -g 12 -bf 0"),
    "mpeg4b": Codec("-c:v mpeg4 -q:v 3 -g 12 -bf 2"),
    "xvid": Codec("-c:v libxvid -q:v 3 -g 12 -bf 2"),
    "mpeg2": Codec("-c:v mpeg2video -q:v 3 -g 12 -bf 0"),
    "mpeg2b": Codec("-c:v mpeg2video -q:v 3 -g 12 -bf 2"),
    "mpeg2i": Codec("-c:v mpeg2video -q:v 3 -g 12 -bf 2 -flags +ilme+ildct", "setfield=tff"),
    "mpeg1": Codec("-c:v mpeg1video -q:v 3 -g 12 -bf 2"),
    "vp8": Codec("-c:v libvpx -g 15 -deadline realtime -auto-alt-ref 1 -lag-in-frames 8"),
    "vp8alpha": Codec("-c:v libvpx -g 15 -deadline realtime -auto-alt-ref 0 -pix_fmt yuva420p"),
    "vp9": Codec(
        "-c:v libvpx-vp9 -g 15 -deadline good -cpu-used 5 -auto-alt-ref 1 -lag-in-frames 12"
    ),
    "vp9ten": Codec("-c:v libvpx-vp9 -g 15 -cpu-used 8 -deadline realtime -pix_fmt yuv420p10le"),
    "vp9full": Codec("-c:v libvpx-vp9 -g 15 -cpu-used 8 -deadline realtime -pix_fmt yuv444p"),
    "av1": Codec(f"-c:v libsvtav1 -preset 12 -g 15 -svtav1-params lp=1 {YUV}"),
    "av1ten": Codec("-c:v libsvtav1 -preset 12 -g 15 -svtav1-params lp=1 -pix_fmt yuv420p10le"),
    "mjpeg": Codec("-c:v mjpeg -q:v 3 -pix_fmt yuvj420p"),
    "png": Codec("-c:v png"),
    "pngalpha": Codec("-c:v png -pix_fmt rgba"),
    "jpeg2000": Codec("-c:v jpeg2000 -q:v 2 -pix_fmt yuv420p"),
    "raw": Codec("-c:v rawvideo -pix_fmt yuv420p"),
    "rawrgb": Codec("-c:v rawvideo -pix_fmt rgb24"),
    "rawbgr": Codec("-c:v rawvideo -pix_fmt bgr24"),
    "palette": Codec(
        "-c:v rawvideo -pix_fmt pal8", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"
    ),
    "qtrle": Codec("-c:v qtrle -g 12"),
    "prores": Codec("-c:v prores_ks -profile:v 0"),
    "huffyuv": Codec("-c:v huffyuv"),
    "utvideo": Codec("-c:v utvideo"),
    "ffv1": Codec("-c:v ffv1 -level 3 -g 1"),
    "zmbv": Codec("-c:v zmbv -g 12"),
    "cinepak": Codec("-c:v cinepak -g 12 -max_strips 1"),
    "msvideo1": Codec("-c:v msvideo1 -g 12"),
    "svq1": Codec("-c:v svq1 -g 12 -q:v 3"),
    "dv": Codec("-c:v dvvideo -pix_fmt yuv420p", NEAREST.format(720, 576)),
    "theora": Codec("-c:v libtheora -q:v 7 -g 12"),
    "wmv1": Codec("-c:v wmv1 -q:v 3 -g 12"),
    "wmv2": Codec("-c:v wmv2 -q:v 3 -g 12"),
    "msmpeg4": Codec("-c:v msmpeg4 -q:v 3 -g 12"),
    "flv1": Codec("-c:v flv -q:v 3 -g 12"),
    "flashsv": Codec("-c:v flashsv -g 12"),
    "h263": Codec("-c:v h263 -q:v 3 -g 12"),
    "gif": Codec("-c:v gif", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"),
    "apng": Codec("-c:v apng"),
}

# --- containers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Container:
    """A muxer and what it takes; ``main`` are the codecs that each anomaly is tried with."""

    suffix: str
    arguments: str
    audio: str  # encoder; empty: the container has none
    main: str
    others: str = ""
    timeline: str = "stamps"


_H264 = "h264 h264b h264open h264refresh h264mbaff h264ten h264full h264odd"
_HEVC = "hevc hevcopen hevclayers hevcten"
CONTAINERS = {
    "mp4": Container(
        *(".mp4", "-f mp4", "aac", "h264 h264b hevcopen mpeg4b"),
        f"{_H264} {_HEVC} mpeg4 mpeg2b mpeg2i mpeg1 vp9 vp9ten av1 av1ten mjpeg png jpeg2000",
    ),
    "mov": Container(
        *(".mov", "-f mov", "aac", "h264b mjpeg png"),
        f"{_H264} hevc hevcten mpeg4b mpeg2b jpeg2000 rawrgb qtrle prores svq1 cinepak pngalpha dv",
    ),
    "fmp4": Container(
        *(".mp4", "-f mp4 -movflags frag_keyframe+empty_moov+default_base_moof", "aac"),
        *("h264b hevcopen", "h264 h264open h264mbaff hevc hevclayers mpeg4b vp9 av1"),
    ),
    "mkv": Container(
        *(".mkv", "-f matroska", "aac", "h264 h264b mpeg2b mjpeg"),
        f"{_H264} {_HEVC} mpeg4 mpeg4b mpeg2i mpeg1 vp8 vp9 vp9full av1 png raw huffyuv ffv1 "
        "utvideo theora prores wmv2 msmpeg4 h263 svq1 cinepak",
    ),
    "webm": Container(
        ".webm", "-f webm", "libvorbis", "vp8 vp9", "vp8alpha vp9ten vp9full av1 av1ten"
    ),
    "avi": Container(
        *(".avi", "-f avi", "libmp3lame", "h264 h264b mpeg4 mpeg4b mjpeg palette"),
        f"{_H264} xvid mpeg2b mpeg1 png raw rawbgr huffyuv utvideo ffv1 zmbv cinepak msvideo1 wmv1 "
        "wmv2 msmpeg4 flv1 h263 dv vp8",
        timeline="dts",
    ),
    "ts": Container(
        *(".ts", "-f mpegts", "aac", "h264b h264mbaff hevcopen mpeg2i"),
        "h264 h264open h264refresh h264ten hevc hevclayers hevcten mpeg4b mpeg2 mpeg2b mpeg1",
    ),
    "mts": Container(
        *(".mts", "-f mpegts -mpegts_m2ts_mode 1", "ac3", "h264mbaff"),
        "h264 h264b h264open hevc mpeg2b mpeg2i",
    ),
    "mpg": Container(".mpg", "-f mpeg", "mp2", "mpeg1 mpeg2i", "mpeg2 mpeg2b"),
    "vob": Container(".vob", "-f vob", "ac3", "mpeg2b", "mpeg2 mpeg2i mpeg1"),
    "flv": Container(".flv", "-f flv", "aac", "h264b flv1", "h264 h264open flashsv"),
    "3gp": Container(".3gp", "-f 3gp", "aac", "h263 mpeg4 h264b", "h264"),
    # ASF has one time per packet, that of decoding: the program shows reordered frames late.
    "wmv": Container(
        *(".wmv", "-f asf", "wmav2", "wmv2 msmpeg4", "wmv1 h264 h264b mpeg4 mpeg4b mjpeg"),
        timeline="dts",
    ),
    "mxf": Container(
        *(".mxf", "-f mxf", "pcm_s16le", "mpeg2i h264b", "mpeg2 mpeg2b h264 dv"), timeline="pts"
    ),
    "ogv": Container(".ogv", "-f ogv", "libvorbis", "theora", "vp8"),
    "gif": Container(".gif", "-f gif", "", "gif"),
    "apng": Container(".apng", "-f apng -plays 0", "", "apng"),
    "m2v": Container(".m2v", "-f mpeg2video", "", "mpeg2b", "mpeg2 mpeg2i", timeline="counted"),
    "m1v": Container(".m1v", "-f mpeg1video", "", "mpeg1", timeline="counted"),
    "264": Container(".264", "-f h264", "", "h264b", "h264", timeline="counted"),
    "265": Container(".265", "-f hevc", "", "hevc", timeline="counted"),
    "ivf": Container(".ivf", "-f ivf", "", "vp8 vp9 av1"),
    "dv": Container(".dv", "-f dv", "", "dv"),
}

# --- anomalies -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Anomaly:
    """What is odd about a file.

    Attributes:
        containers: those that can have it; empty: all.
        but: containers and codecs that cannot.
        filters: of the numbered pictures, before the codec's.
        before: arguments before the input of the pictures.
        after: arguments for encoder and muxer.
        finish: what is done to the bytes of the finished file.
        audio: a second input, its arguments; empty: none.
        codecs: only these; empty: the container's main ones.
        timeline: how the oracle reads times; empty: as the container says.
        source: (cell, path) -> None, writes the file instead.
        stream: the one that is the film, as ffmpeg writes it.
        rate: frames per second.
        damaged: some frames cannot be decoded; what decoders show in their place is their own
            business, and where the last one ends is known to DAMAGED_SECONDS.
    """

    containers: str = ""
    but: str = ""
    filters: str = ""
    before: str = ""
    after: str = ""
    finish: Callable[[bytes], bytes] | None = None
    audio: str = ""
    codecs: str = ""
    timeline: str = ""
    source: Callable[["Cell", Path], None] | None = None
    stream: str = "V:0"
    rate: str = "25"
    damaged: bool = False


@dataclass(frozen=True)
class Cell:
    """One file; its name is the names of its three parts."""

    container: str
    codec: str
    anomaly: str

    @property
    def name(self) -> str:
        return f"{self.container}-{self.codec}-{self.anomaly}"

    @property
    def timeline(self) -> str:
        """How the oracle reads its times."""
        own, odd = CONTAINERS[self.container].timeline, ANOMALIES[self.anomaly].timeline
        return odd if odd and own != "counted" else own


def make(cell: Cell, folder: Path) -> Path:
    """Write the file of ``cell`` into ``folder``."""
    anomaly, container = ANOMALIES[cell.anomaly], CONTAINERS[cell.container]
    path = folder / f"{cell.name}{container.suffix}"
    (anomaly.source or _encode)(cell, path)
    if anomaly.finish is not None:
        path.write_bytes(anomaly.finish(path.read_bytes()))
    return path


def pictures(first: int = 0, count: int = COUNT) -> bytes:
    """Raw RGB of the numbered frames from ``first`` on."""
    return b"".join(numbered_frame(first + k).tobytes() for k in range(count))


def _encode(cell: Cell, path: Path, first: int = 0, count: int = COUNT) -> None:
    anomaly, container, codec = (
        ANOMALIES[cell.anomaly],
        CONTAINERS[cell.container],
        CODECS[cell.codec],
    )
    filters = ",".join(filter(None, (anomaly.filters, codec.filters)))
    raw = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{WIDTH}x{HEIGHT}",
        "-r",
        anomaly.rate,
        "-i",
        "-",
    ]
    sound = anomaly.audio.split()
    chosen = ["-map", "1:v", "-map", "0:a", "-c:a", container.audio] if sound else ["-map", "0:v"]
    if sound:
        chosen += ["-ac", "2", "-b:a", "64k"]
    ffmpeg(
        *("-v", "error", *sound, *anomaly.before.split(), *raw),
        *(["-filter_complex", f"[{bool(sound):d}:v]{filters}[v]"] if filters else []),
        *(["-map", "[v]", *chosen[2:]] if filters else chosen),
        *(*codec.arguments.split(), *anomaly.after.split(), *container.arguments.split(), path),
        data=pictures(first, count),
    )


SINE = "-f lavfi -t 2.4 -i sine=r=48000"
LONG_SINE = "-f lavfi -t 4 -i sine=r=48000"
FINE_TICK = "-fps_mode passthrough -enc_time_base 1:1000"


def _joined(cell: Cell, path: Path) -> None:
    """Two files, one behind the other."""
    _encode(cell, path)
    second = path.with_name(f"second{path.suffix}")
    _encode(cell, second, first=SECOND_PART, count=COUNT // 2)
    path.write_bytes(path.read_bytes() + second.read_bytes())
    second.unlink()


def _piped(cell: Cell, path: Path) -> None:
    """Written where nothing can be corrected at the end: no duration, no index."""
    _encode(cell, path)
    arguments = CONTAINERS[cell.container].arguments.split()
    path.write_bytes(ffmpeg("-v", "error", "-i", path, "-c", "copy", *arguments, "-").stdout)


def _copied(*before: str, after: str = "") -> Callable[[Cell, Path], None]:
    """Packets copied by another run of ffmpeg with these arguments, as people cut files."""

    def copy(cell: Cell, path: Path) -> None:
        whole = path.with_name(f"whole{path.suffix}")
        _encode(cell, whole)
        arguments = CONTAINERS[cell.container].arguments.split()
        ffmpeg("-v", "error", *before, "-i", whole, "-c", "copy", *after.split(), *arguments, path)
        whole.unlink()

    return copy


def _with_second_video(disposition: str, map_order: str, seconds: str) -> Callable:
    """The film and another, smaller film, whose pictures say that they are not the first."""

    def two(cell: Cell, path: Path) -> None:
        film, other = (path.with_name(f"{name}{path.suffix}") for name in ("film", "other"))
        _encode(cell, film)
        _encode(cell, other, first=SECOND_PART)
        arguments = CONTAINERS[cell.container].arguments.split()
        ffmpeg(
            *("-v", "error", "-i", film, *seconds.split(), "-i", other, *map_order.split()),
            *("-c", "copy", *disposition.split(), *arguments, path),
        )
        film.unlink()
        other.unlink()

    return two


def _with_cover(disposition: str, map_order: str) -> Callable[[Cell, Path], None]:
    """The film and one still picture, larger than the film's."""

    def cover(cell: Cell, path: Path) -> None:
        film, still = path.with_name(f"film{path.suffix}"), path.with_name("still.png")
        _encode(cell, film)
        scale = NEAREST.format(640, 480)
        command = ("-v", "error", *RAW, "-i", "-", "-vf", scale, still)
        ffmpeg(*command, data=pictures(SECOND_PART, 1))
        arguments = CONTAINERS[cell.container].arguments.split()
        ffmpeg(
            *("-v", "error", "-i", film, "-i", still, *map_order.split(), "-c", "copy"),
            *(*disposition.split(), *arguments, path),
        )
        film.unlink()
        still.unlink()

    return cover


_MP4 = "mp4 mov 3gp"
_BARE = "m2v m1v 264 265"  # streams without a container
_TIMED = "mp4 mov fmp4 mkv webm ts mts flv 3gp wmv"  # containers that take any timestamp
_IRREGULAR = "settb=1/1000,setpts='N*40+floor(N/7)*90'"
_NO_REORDER = "h264 vp8 mjpeg flv1 wmv2 msmpeg4 h263 mpeg4"  # pts and dts in the same order
# Timestamps of packets are changed while they are written; decoding times stay 200 ms ahead.
_SHIFT = "setts=dts=DTS-200:pts="


def _turned(filters: str, matrix: tuple[int, int, int, int]) -> Anomaly:
    """A display matrix, and pictures stored so that it makes them right."""
    patch = patches.display_matrix(*matrix)
    # H.263 has no pictures of 96 x 128 pixels.
    return Anomaly(f"{_MP4} fmp4", but="h263", filters=filters, finish=patch)


ANOMALIES = {
    "plain": Anomaly(),
    "sound": Anomaly(audio=SINE, but=f"gif apng dv ivf {_BARE}"),
    "late-video": Anomaly(
        "mp4 mov fmp4 mkv webm ts mts mpg vob flv 3gp wmv ogv",
        audio=LONG_SINE,
        before="-itsoffset 0.7",
    ),
    "late-sound": Anomaly(
        "mp4 mov fmp4 mkv webm ts mts mpg vob flv 3gp wmv ogv",
        audio=f"-itsoffset 0.7 {SINE}",
    ),
    "late-start": Anomaly(but=f"avi gif apng mxf dv {_BARE}", after="-output_ts_offset 7.13"),
    "negative-start": Anomaly(
        "mp4 mov fmp4 3gp ts",
        after="-output_ts_offset -0.5 -avoid_negative_ts disabled",
    ),
    "stamps-wrap": Anomaly("ts mts", after="-output_ts_offset 95441 -muxdelay 0 -muxpreload 0"),
    "vfr": Anomaly(f"{_TIMED} gif apng", filters=_IRREGULAR, after=FINE_TICK, but="mpeg2b mpeg2i"),
    "vfr-dropped": Anomaly(
        "avi mpg vob ogv mxf", filters="select='not(eq(mod(n,7),3))'", after="-fps_mode passthrough"
    ),
    "gap": Anomaly(
        f"{_TIMED} gif apng",
        but="mpeg2b mpeg2i",
        filters="settb=1/1000,setpts='N*40+gte(N,23)*3000'",
        after=FINE_TICK,
    ),
    "ntsc": Anomaly(but="gif apng dv", rate="30000/1001"),
    "film": Anomaly(but="gif apng dv", rate="24000/1001"),
    "slow": Anomaly("mp4 mov fmp4 mkv webm avi ts flv wmv ogv gif", rate="5"),
    "fast": Anomaly("mp4 mov fmp4 mkv webm avi ts ogv", rate="120"),
    "double-stamp": Anomaly(
        _TIMED,
        timeline="order",
        codecs=_NO_REORDER,
        after=f"{FINE_TICK} -bsf:v {_SHIFT}PTS-40*(eq(N\\,20)+eq(N\\,41))",
    ),
    "backward-stamp": Anomaly(
        _TIMED,
        timeline="order",
        codecs=_NO_REORDER,
        after=f"{FINE_TICK} -bsf:v {_SHIFT}PTS-50*(eq(N\\,20)+eq(N\\,41))",
    ),
    "far-back-stamp": Anomaly(
        _TIMED,
        timeline="order",
        codecs=_NO_REORDER,
        after=f"{FINE_TICK} -bsf:v {_SHIFT}PTS-330*eq(N\\,40)",
    ),
    "short-header": Anomaly("mp4 mov mkv webm flv 3gp wmv", finish=patches.duration(0.4)),
    "long-header": Anomaly("mp4 mov mkv webm flv 3gp wmv", finish=patches.duration(3.0)),
    "short-header-sound": Anomaly(
        "mp4 mov mkv webm flv 3gp wmv", audio=SINE, finish=patches.duration(0.4)
    ),
    "piped": Anomaly("fmp4 mkv webm avi ts mpg flv wmv ogv", source=_piped),
    "no-index": Anomaly("avi", finish=patches.without_index),
    "cut-off": Anomaly(but="mp4 mov 3gp", finish=patches.cut(0.0, 0.65), damaged=True),
    "no-beginning": Anomaly(
        f"ts mts mpg vob dv {_BARE}", finish=patches.cut(0.4, 1.0), damaged=True
    ),
    "moov-missing": Anomaly(_MP4, finish=patches.cut(0.0, 0.65)),
    "joined": Anomaly(f"ts mts mpg vob {_BARE}", source=_joined, timeline="joined"),
    "appended": Anomaly("flv fmp4 mkv dv mp4 mov", source=_joined, timeline="appended"),
    "chained": Anomaly("ogv", source=_joined, timeline="appended", damaged=True),
    "key-lost": Anomaly(
        "mp4 mov mkv ts flv mpg webm", after="-bsf:v noise=drop=lt(n\\,7)", damaged=True
    ),
    "packets-lost": Anomaly(
        "mp4 mov mkv avi",
        codecs="mjpeg png palette",
        after="-bsf:v noise=drop='eq(mod(n\\,9)\\,5)'",
    ),
    "turned-90": _turned("transpose=cclock", (0, 1, -1, 0)),
    "turned-180": _turned("hflip,vflip", (-1, 0, 0, -1)),
    "turned-270": _turned("transpose=clock", (0, -1, 1, 0)),
    "mirrored": _turned("hflip", (-1, 0, 0, 1)),
    "upside-down": _turned("vflip", (1, 0, 0, -1)),
    "transposed": _turned("transpose=cclock_flip", (0, 1, 1, 0)),
    "antitransposed": _turned("transpose=clock_flip", (0, -1, -1, 0)),
    "empty-samples": Anomaly(
        "mp4 mov", codecs="mjpeg png mpeg4 h264", finish=patches.empty_samples(20, 41, 59)
    ),
    # In AVI and MXF the frames before the first keyframe, which nothing shows, have times.
    "cut-copy": Anomaly(
        but="mpeg4b mpeg2i",
        containers="mp4 mov fmp4 mkv webm avi ts mts mpg vob flv 3gp wmv mxf",
        source=_copied("-ss", "0.9"),
    ),
    "cut-copy-sound": Anomaly(
        but="mpeg4b mpeg2i",
        containers="mp4 mov fmp4 mkv webm avi ts mts mpg vob flv 3gp wmv",
        audio=SINE,
        source=_copied("-ss", "0.9"),
    ),
    "cut-copy-at": Anomaly(
        "mp4 mov mkv ts flv 3gp",
        audio=SINE,
        source=_copied(after="-ss 0.9 -copyinkf"),
        damaged=True,
    ),
    "no-edit-list": Anomaly(_MP4, after="-use_editlist 0"),
    # Of frames that are reordered ffmpeg itself shows a jumble behind the second edit.
    "two-edits": Anomaly(
        _MP4, codecs="h264 mjpeg png h263 mpeg4", finish=patches.edits((0.0, 0.8), (1.2, 1.0))
    ),
    "empty-edit": Anomaly(_MP4, finish=patches.edits((None, 0.5), (0.0, 2.4))),
    "late-edit": Anomaly(_MP4, finish=patches.edits((0.52, 1.5))),
    "index-first": Anomaly(_MP4, after="-movflags +faststart"),
    "timecode": Anomaly("mp4 mov mxf", after="-timecode 01:00:00:00"),
    "second-video": Anomaly(
        "mp4 mov mkv webm avi ts",
        source=_with_second_video("-disposition:v:0 default", "-map 0:v -map 1:v", ""),
    ),
    "second-video-early": Anomaly(
        "mp4 mkv ts",
        source=_with_second_video("-disposition:v:0 default", "-map 0:v -map 1:v", "-ss 1"),
    ),
    "second-is-default": Anomaly(
        "mp4 mkv webm",
        source=_with_second_video(
            "-disposition:v:0 0 -disposition:v:1 default", "-map 1:v -map 0:v", ""
        ),
        stream="v:1",
    ),
    "cover": Anomaly(
        "mp4 mov mkv", source=_with_cover("-disposition:v:1 attached_pic", "-map 0:v -map 1:v")
    ),
    "cover-first": Anomaly(
        "mkv",
        source=_with_cover("-disposition:v:0 attached_pic+default", "-map 1:v -map 0:v"),
        stream="v:1",
    ),
    "still-first": Anomaly(
        "mp4 mkv mov",
        source=_with_cover("-disposition:v:0 default -disposition:v:1 0", "-map 1:v -map 0:v"),
        stream="v:1",
    ),
}


def _all_cells() -> Iterable[Cell]:
    for container, spec in CONTAINERS.items():
        for codec in dict.fromkeys(f"{spec.main} {spec.others}".split()):
            yield Cell(container, codec, "plain")
    for number, (name, anomaly) in enumerate(ANOMALIES.items()):
        if name == "plain":
            continue
        for container in (anomaly.containers or " ".join(CONTAINERS)).split():
            spec, without = CONTAINERS[container], anomaly.but.split()
            every = f"{spec.main} {spec.others}".split()
            codecs = [c for c in anomaly.codecs.split() if c in every] or spec.main.split()
            codecs = [codec for codec in codecs if codec not in without]
            if container not in without:
                turn = number % max(1, len(codecs))
                chosen = (codecs[turn:] + codecs)[: min(len(codecs), CODECS_EACH)]
                yield from (Cell(container, codec, name) for codec in chosen)


CELLS = tuple(_all_cells())


def sample() -> list[Cell]:
    """One cell of every anomaly, and of every container, whose codecs take turns."""
    chosen: list[Cell] = []
    for key in ("anomaly", "container"):
        for value in dict.fromkeys(getattr(cell, key) for cell in CELLS):
            if value == "plain" or any(getattr(cell, key) == value for cell in chosen):
                continue
            choices = [cell for cell in CELLS if getattr(cell, key) == value]
            chosen.append(choices[len(chosen) % len(choices)])
    return chosen
