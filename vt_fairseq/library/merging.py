"""Parts of a library to one, and what can still be read of a damaged one to a new one."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from vt_fairseq.errors import UserError
from vt_fairseq.library.origin import checked_settings
from vt_fairseq.library.store import Store, StoredFile

SEGMENTS_AT_ONCE = 64


@dataclass
class Copied:
    """What was taken over: segments, and the reason of each that was not."""

    segments: int = 0
    lost: list[str] = field(default_factory=list)


def merge(path: str | os.PathLike[str], parts: Sequence[str | os.PathLike[str]]) -> int:
    """Put all segments of ``parts`` into the library at ``path``; return how many are new in it.

    Raises UserError where a part is missing or damaged, was made with another model, precision or
    window, or saw another content of the same file. What is done is not done again.
    """
    added = 0
    for part in parts:  # before a new library is made in vain
        with closing(Store(part)) as source:
            checked_settings(source)
    with closing(Store(path, writable=True)) as target:
        for part in parts:
            with closing(Store(part)) as source:
                _take_settings(target, source)
                copied = _copy(target, source, _refuse)
                added += copied.segments
    return added


def rescue(damaged: str | os.PathLike[str], path: str | os.PathLike[str]) -> Copied:
    """Put all segments of a damaged library that can still be read into a new one.

    Raises UserError where nothing can be read, and where there is something at ``path``.
    """
    if Path(path).exists():
        raise UserError(f"{path} is there already: name a new file for what is rescued")
    lost: list[str] = []
    with closing(Store(damaged)) as source:
        checked_settings(source)  # before a new library is made in vain
        target = Store(path, writable=True)
    with closing(Store(damaged)) as source, closing(target):
        _take_settings(target, source)
        copied = _copy(target, source, lost.append)
        return replace(copied, lost=lost)


def _refuse(reason: str) -> None:
    raise UserError(reason)


def _take_settings(target: Store, source: Store) -> None:
    wanted = checked_settings(source)
    with target.transaction():
        if not target.settings():
            target.set(wanted)
    own = checked_settings(target)
    for name, what in (("model", "model"), ("dtype", "precision"), ("window", "window")):
        if own[name] != wanted[name]:
            raise UserError(
                f"{source.path} was made with the {what} {wanted[name]:.12}, {target.path} with "
                f"{own[name]:.12}: index its videos again with the same"
            )


def _copy(target: Store, source: Store, unreadable: Callable[[str], None]) -> Copied:
    """All segments, some in each transaction; the reason of one that cannot be read is passed on.

    Videos without any segment are not taken over: they are looked at again.
    """
    copied = Copied()
    files: dict[int, _Taken] = {}
    run = target.begin_run(f"from {os.path.basename(source.path)}")
    for numbers in _numbers(source):
        with target.transaction():
            for number in numbers:
                try:
                    found = source.record(number)
                except UserError as error:
                    unreadable(str(error))
                    continue
                if found is not None:
                    file, segment = found
                    if segment.file not in files:
                        files[segment.file] = _file(target, source, file)
                    taken = files[segment.file]
                    if segment.error is None or taken.failures:
                        own = replace(segment, file=taken.number)
                        copied.segments += target.add_segments(run, [own])
    target.end_run(run)
    return copied


def _numbers(source: Store) -> Iterator[range]:
    """The ids that segments may have, some at once; what is damaged may name any."""
    last, start = source.last_number(), 1
    while start <= last:
        try:
            start = source.next_number(start) or last + 1
        except UserError:
            if start > os.path.getsize(source.path):  # each takes more than a byte
                return
        yield range(start, min(start + SEGMENTS_AT_ONCE, last + 1))
        start += SEGMENTS_AT_ONCE


@dataclass(frozen=True)
class _Taken:
    """A video in the target, and whether it takes segments that could not be read."""

    number: int
    failures: bool


def _file(target: Store, source: Store, file: StoredFile) -> _Taken:
    """Where one library could open the video, what the other says of failing is forgotten."""
    known = target.file(file.path)
    if known is not None and known.sha256 != file.sha256:
        raise UserError(
            f"{file.path} changed between {target.path} and {source.path}: index it again"
        )
    opened, duration = known is not None and known.duration is not None, file.duration
    if known is not None and not opened and duration is not None:
        target.remove_failures(known.id)
    number = target.add_file(
        *(file.path, file.size, file.modified, file.sha256),
        known.duration if known is not None and duration is None else duration,
    )
    return _Taken(number, duration is not None or not opened)
