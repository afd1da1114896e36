"""wasi:filesystem 0.2: the granted folders, with the rights and the quota that preview 1 has."""

import os
import stat
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from device_agent.sandbox.signatures import Failure
from device_agent.sandbox.wasi2_io import Error, Resource, failed
from device_agent.sandbox.wasi_descriptors import Descriptor
from device_agent.sandbox.wasi_folders import Folders
from device_agent.sandbox.wasi_numbers import (  # fmt: skip
    BADF,
    FILE,
    FOLDER,
    ILSEQ,
    INVAL,
    ISDIR,
    MFILE,
    NOTCAPABLE,
    NOTDIR,
    NOTSUP,
    SECOND_NS,
    Errno,
    error_code,
    number_of,
    times,
)
from device_agent.sandbox.wasi_paths import decode
from ota.formats.cbor import sha256
from ota.formats.interfaces import ERROR_CODES

__all__ = ["FileStream", "Files", "Preopens", "hosts"]

MAX_DESCRIPTORS = 32
READ_LIMIT_BYTES = 1 << 20
READ, WRITE, MUTATE = 1, 2, 32
FOLLOW = 1
_SYNC = 4 | 8 | 16
_TYPES = {stat.S_IFBLK: 1, stat.S_IFCHR: 2, stat.S_IFDIR: 3, stat.S_IFIFO: 4, stat.S_IFLNK: 5, stat.S_IFREG: 6, stat.S_IFSOCK: 7}
Time = tuple[int, tuple[int, int] | None]
_Answer = TypeVar("_Answer")


def _coded(function: Callable[..., _Answer]) -> Callable[..., _Answer]:
    """An error of the kernel, or of what is allowed, is an error code of the interface."""

    def call(*values: Any) -> _Answer:
        try:
            return function(*values)
        except (Errno, OSError) as error:
            raise Failure(error_code(number_of(error))) from None

    return call


class File(Resource):
    """A handle of a file or folder, which stays open until the last handle and stream is dropped."""

    resource = "descriptor"

    def __init__(self, opened: "Opened") -> None:
        self.opened = opened.held()
        self.at = opened.descriptor

    def close(self) -> None:
        """One holder less."""
        self.opened.let_go()


class Opened:
    """An open file or folder, and how many hold it."""

    def __init__(self, descriptor: Descriptor, close: Callable[[], None]) -> None:
        self.descriptor = descriptor
        self._close, self._holders = close, 0

    def held(self) -> "Opened":
        """By one more."""
        self._holders += 1
        return self

    def let_go(self) -> None:
        """By one less; the last closes it."""
        self._holders -= 1
        if self._holders == 0:
            self._close()


class FileStream(Resource):
    """A stream from a place in a file on, or to its end where there is no place."""

    def __init__(self, folders: Folders, opened: Opened, resource: str, at: int | None) -> None:
        self.resource = resource
        self._folders, self._opened, self._at = folders, opened.held(), at

    def close(self) -> None:
        """One holder less."""
        self._opened.let_go()

    def read(self, size: int) -> bytes:
        """At most so much. Raises Failure: closed at the end."""
        assert self._at is not None
        try:
            content = os.pread(self._opened.descriptor.real, size, self._at)
        except OSError as error:
            raise _failed(error) from None
        if size and not content:
            raise Failure((1, None))
        self._at += len(content)
        return content

    def write(self, content: bytes) -> None:
        """All of it. Raises Failure."""
        real, room = self._opened.descriptor.real, self._folders.room
        try:
            while content:
                if self._at is None:
                    os.lseek(real, 0, os.SEEK_END)
                    done = room.write(real, content)
                else:
                    done = room.pwrite(real, content, self._at)
                    self._at += done
                content = content[done:]
        except (Errno, OSError) as error:
            raise _failed(error) from None


def _failed(error: Errno | OSError) -> Failure:
    code = error_code(number_of(error))
    return failed(ERROR_CODES[code], code)


class Entries(Resource):
    """What is in a folder, one at a time."""

    resource = "directory-entry-stream"

    def __init__(self, entries: Sequence[tuple[int, str]]) -> None:
        self.entries = iter(entries)


def _path(text: str) -> str:
    return decode(text.encode())


def _is_utf8(name: str) -> bool:
    """A name of other bytes has half a surrogate pair for each."""
    return not any("\ud800" <= each <= "\udfff" for each in name)


def _offset(value: int) -> int:
    if value >= 1 << 63:
        raise Errno(INVAL)
    return value


def _stat(about: os.stat_result) -> tuple[Any, ...]:
    moments = (divmod(max(0, each), SECOND_NS) for each in (about.st_atime_ns, about.st_mtime_ns, about.st_ctime_ns))
    return _type(about), about.st_nlink, about.st_size, *moments


def _type(about: os.stat_result) -> int:
    return _TYPES.get(stat.S_IFMT(about.st_mode), 0)


def _hash(about: os.stat_result) -> tuple[int, int]:
    raw = struct.pack("<QQqq", about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    lower, upper = struct.unpack_from("<QQ", sha256(raw))
    return lower, upper


def _moment(new: Time, now: int, given: int) -> tuple[int, int]:
    """Nanoseconds, and the flag for it: `given`, `now`, or none for what does not change."""
    case, moment = new
    if case < 2 or moment is None:
        return 0, now if case == 1 else 0
    nanoseconds = moment[0] * SECOND_NS + moment[1]
    if moment[1] >= SECOND_NS or nanoseconds >= 1 << 63:
        raise Errno(INVAL)
    return nanoseconds, given


def _times(accessed: Time, modified: Time) -> tuple[int, int, int]:
    """As `wasi_numbers.times` takes them."""
    (first, flag), (second, other) = _moment(accessed, 2, 1), _moment(modified, 8, 4)
    return first, second, flag | other


class Preopens:
    """wasi:filesystem/preopens."""

    def __init__(self, folders: Sequence[tuple[str, int, bool]]) -> None:
        self._opened = [
            (Opened(Descriptor(real, FOLDER, readable=True, writable=writable), lambda: None), path)
            for path, real, writable in folders
        ]

    def get_directories(self) -> list[tuple[File, str]]:
        """The granted folders, by the names that they have on the board."""
        return [(File(opened), path) for opened, path in self._opened]


class Files:
    """wasi:filesystem/types."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._count = 0

    def _open(self, descriptor: Descriptor) -> File:
        def close() -> None:
            self._count -= 1
            self._folders.room.close(descriptor.real)

        self._count += 1
        return File(Opened(descriptor, close))

    @staticmethod
    def _folder(file: File) -> Descriptor:
        if file.at.kind != FOLDER:
            raise Errno(NOTDIR)
        return file.at

    @staticmethod
    def _file(file: File, *, write: bool = False) -> int:
        if file.at.kind != FILE:
            raise Errno(ISDIR)
        if not (file.at.writable if write else file.at.readable):
            raise Errno(NOTCAPABLE if write else BADF)
        return file.at.real

    # -- what is open

    @_coded
    def descriptor_read_via_stream(self, file: File, at: int) -> FileStream:
        """From a place on."""
        self._file(file)
        return FileStream(self._folders, file.opened, "input-stream", _offset(at))

    @_coded
    def descriptor_write_via_stream(self, file: File, at: int) -> FileStream:
        """From a place on."""
        self._file(file, write=True)
        return FileStream(self._folders, file.opened, "output-stream", _offset(at))

    @_coded
    def descriptor_append_via_stream(self, file: File) -> FileStream:
        """At the end, wherever that is."""
        self._file(file, write=True)
        return FileStream(self._folders, file.opened, "output-stream", None)

    @_coded
    def descriptor_advise(self, file: File, at: int, size: int, advice: int) -> None:
        """Nothing follows from it."""
        if file.at.kind != FILE:
            raise Errno(BADF)

    @_coded
    def descriptor_sync(self, file: File) -> None:
        """To the disk."""
        os.fsync(file.at.real)

    @_coded
    def descriptor_sync_data(self, file: File) -> None:
        """To the disk."""
        os.fdatasync(file.at.real)

    def descriptor_get_flags(self, file: File) -> int:
        """What may be done with it."""
        if file.at.kind == FOLDER:
            return READ | (MUTATE if file.at.writable else 0)
        return (READ if file.at.readable else 0) | (WRITE if file.at.writable else 0)

    @_coded
    def descriptor_get_type(self, file: File) -> int:
        """A file or a folder."""
        return _type(os.fstat(file.at.real))

    @_coded
    def descriptor_set_size(self, file: File, size: int) -> None:
        """Shorter, or longer by zeroes."""
        self._folders.room.truncate(self._file(file, write=True), _offset(size))

    @_coded
    def descriptor_set_times(self, file: File, accessed: Time, modified: Time) -> None:
        """Of access and of change."""
        if not file.at.writable:
            raise Errno(NOTCAPABLE)
        os.utime(file.at.real, ns=times(os.fstat(file.at.real), *_times(accessed, modified)))

    @_coded
    def descriptor_read(self, file: File, size: int, at: int) -> tuple[bytes, bool]:
        """At most so much, and whether the end was reached."""
        content = os.pread(self._file(file), min(size, READ_LIMIT_BYTES), _offset(at))
        return content, not content

    @_coded
    def descriptor_write(self, file: File, content: bytes, at: int) -> int:
        """How much was written."""
        return self._folders.room.pwrite(self._file(file, write=True), content, _offset(at))

    @_coded
    def descriptor_read_directory(self, file: File) -> Entries:
        """By name, without the folder itself and the one above."""
        real, entries = self._folder(file).real, []
        for name in sorted(os.listdir(real)):  # noqa: PTH208
            try:
                entries.append((_type(os.stat(name, dir_fd=real, follow_symlinks=False)), name))
            except FileNotFoundError:
                continue
        return Entries(entries)

    @_coded
    def directory_entry_stream_read_directory_entry(self, entries: Entries) -> tuple[int, str] | None:
        """The next; None after the last. A name that is not UTF-8 is an error."""
        entry = next(entries.entries, None)
        if entry is not None and not _is_utf8(entry[1]):
            raise Errno(ILSEQ)
        return entry

    @_coded
    def descriptor_stat(self, file: File) -> tuple[Any, ...]:
        """About what is open."""
        return _stat(os.fstat(file.at.real))

    @_coded
    def descriptor_metadata_hash(self, file: File) -> tuple[int, int]:
        """Another one where it was changed, or is another file."""
        return _hash(os.fstat(file.at.real))

    def descriptor_is_same_object(self, file: File, other: File) -> bool:
        """Whether both are the same file."""
        return os.path.samestat(os.fstat(file.at.real), os.fstat(other.at.real))

    # -- paths

    @_coded
    def descriptor_open_at(self, file: File, lookup: int, path: str, how: int, flags: int) -> File:
        """A file or folder below."""
        if self._count >= MAX_DESCRIPTORS:
            raise Errno(MFILE)
        if flags & _SYNC:
            raise Errno(NOTSUP)
        read, write = bool(flags & READ), bool(flags & WRITE)
        return self._open(
            self._folders.open(self._folder(file), _path(path), how, follow=bool(lookup & FOLLOW), read=read, write=write)
        )

    @_coded
    def descriptor_create_directory_at(self, file: File, path: str) -> None:
        """A new folder."""
        self._folders.make(self._folder(file), _path(path))

    @_coded
    def descriptor_remove_directory_at(self, file: File, path: str) -> None:
        """An empty folder."""
        self._folders.remove(self._folder(file), _path(path))

    @_coded
    def descriptor_unlink_file_at(self, file: File, path: str) -> None:
        """A file."""
        self._folders.unlink(self._folder(file), _path(path))

    @_coded
    def descriptor_rename_at(self, file: File, path: str, target: File, new_path: str) -> None:
        """Also to another folder."""
        self._folders.rename(self._folder(file), _path(path), self._folder(target), _path(new_path))

    @_coded
    def descriptor_link_at(self, file: File, lookup: int, path: str, target: File, new_path: str) -> None:
        """Another name of a file."""
        if lookup & FOLLOW:
            raise Errno(INVAL)
        self._folders.link(self._folder(file), _path(path), self._folder(target), _path(new_path))

    @_coded
    def descriptor_symlink_at(self, file: File, target: str, path: str) -> None:
        """A symbolic link."""
        self._folders.symlink(_path(target), self._folder(file), _path(path))

    @_coded
    def descriptor_readlink_at(self, file: File, path: str) -> str:
        """Where a symbolic link leads."""
        try:
            return self._folders.read_link(self._folder(file), _path(path)).decode()
        except UnicodeDecodeError:
            raise Errno(ILSEQ) from None

    @_coded
    def descriptor_stat_at(self, file: File, lookup: int, path: str) -> tuple[Any, ...]:
        """About what is below."""
        return _stat(self._folders.about(self._folder(file), _path(path), follow=bool(lookup & FOLLOW)))

    @_coded
    def descriptor_metadata_hash_at(self, file: File, lookup: int, path: str) -> tuple[int, int]:
        """As `descriptor_metadata_hash`."""
        return _hash(self._folders.about(self._folder(file), _path(path), follow=bool(lookup & FOLLOW)))

    @_coded
    def descriptor_set_times_at(self, file: File, lookup: int, path: str, accessed: Time, modified: Time) -> None:
        """Of access and of change."""
        folder, moments = self._folder(file), _times(accessed, modified)
        self._folders.set_times(folder, _path(path), *moments, follow=bool(lookup & FOLLOW))

    def filesystem_error_code(self, error: Error) -> int | None:
        """The error code of a stream's error, where it has one."""
        return error.code


def hosts(folders: Folders, granted: Sequence[tuple[str, int, bool]]) -> dict[str, Any]:
    """What answers for each of these interfaces."""
    return {"wasi:filesystem/preopens": Preopens(granted), "wasi:filesystem/types": Files(folders)}
