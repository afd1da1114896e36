"""The capability `wasi`: wasi_snapshot_preview1 with output to the log, clocks and random; folders where granted, no sockets.

Numbers and layouts: WASI preview 1, phases/snapshot/docs.md. Everything works on descriptors that were opened before the worker was
confined: a path is walked one name at a time, and neither `..` nor a symbolic link leads out of the granted folder.
"""

import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from device_agent.sandbox import wasi_paths
from device_agent.sandbox.errors import Exited
from device_agent.sandbox.folder_room import FolderRoom
from device_agent.sandbox.wasi_descriptors import Descriptor, Lines, Streams
from device_agent.sandbox.wasi_folders import Folders
from device_agent.sandbox.wasi_numbers import (  # fmt: skip
    APPEND,
    BADF,
    FILE,
    FOLDER,
    FOLLOW,
    INVAL,
    ISDIR,
    MFILE,
    NAMETOOLONG,
    NONBLOCK,
    NOSYS,
    NOTCAPABLE,
    NOTDIR,
    NOTSOCK,
    NOTSUP,
    OK,
    READ_RIGHT,
    SPIPE,
    STREAM,
    WHENCE,
    WRITE_RIGHT,
    Errno,
    checked_offset,
    clock_id,
    file_type,
    number_of,
    times,
)

MODULE = "wasi_snapshot_preview1"
MAX_DESCRIPTORS = 32
IO_LIMIT_BYTES = 1 << 20
VECTORS_LIMIT = 1024
SLEEP_LIMIT_NS = 1 << 62  # as much as Python can sleep


class Wasi:
    """The functions, by name, for one module. `read` and `write` reach its memory, and raise for a bad pointer."""

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
        log: Callable[[str, str], None],
        folders: tuple[tuple[str, int, bool], ...] = (),
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
        quota_bytes: int = 0,
        streams: "Streams | None" = None,
    ) -> None:
        """`folders`: path as the module sees it, an open descriptor, and whether it may be written, `quota_bytes` for all.
        `arguments` begin with the program's name. `streams`: what the standard ones are, where they are not the log.
        """
        self._read, self._write = read, write
        self.lines = streams.outputs if streams else (Lines(log, "info"), Lines(log, "warn"))
        self._arguments = [each.encode() + b"\0" for each in arguments or ("module",)]
        self._environment = [f"{key}={value}".encode() + b"\0" for key, value in environment.items()]
        self._input = streams.read if streams else lambda size: b""
        self._open = {0: Descriptor(-1, STREAM, readable=True, writable=False)}
        for lines in self.lines:
            self._open[len(self._open)] = Descriptor(-1, STREAM, readable=False, writable=True, lines=lines)
        self.folders = Folders(FolderRoom(quota_bytes, [real for _, real, writable in folders if writable]))
        self._room = self.folders.room
        for path, real, writable in folders:
            self._open[len(self._open)] = Descriptor(real, FOLDER, readable=True, writable=writable, preopen=path)

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Everything that preview 1 has: what is not offered answers NOSYS, NOTSUP or BADF."""
        found = {name: self._guarded(getattr(self, name)) for name in _NAMES}
        found |= {name: self._guarded(self._no_socket) for name in _SOCKETS}
        return found | {"proc_exit": self.proc_exit, "proc_raise": lambda signal: NOSYS, "sched_yield": lambda: OK}

    def end_lines(self) -> None:
        """A call into the module has ended: what it has printed of a line is a line."""
        for lines in self.lines:
            lines.end()

    @staticmethod
    def _guarded(function: Callable[..., None]) -> Callable[..., int]:
        def call(*values: int) -> int:
            try:
                function(*values)
            except (Errno, OSError) as error:
                return number_of(error)
            return OK

        return call

    # -- memory

    def _u32(self, at: int, value: int) -> None:
        self._write(at, struct.pack("<I", value & 0xFFFFFFFF))

    def _u64(self, at: int, value: int) -> None:
        self._write(at, struct.pack("<Q", value & (2**64 - 1)))

    def _vectors(self, at: int, count: int) -> list[tuple[int, int]]:
        count &= 0xFFFFFFFF
        if count > VECTORS_LIMIT:
            raise Errno(INVAL)
        raw = self._read(at, 8 * count)
        vectors = list(struct.iter_unpack("<II", raw))
        if sum(size for _, size in vectors) > IO_LIMIT_BYTES:
            raise Errno(INVAL)
        return vectors

    def _gather(self, at: int, count: int) -> bytes:
        return b"".join(self._read(pointer, size) for pointer, size in self._vectors(at, count))

    def _scatter(self, at: int, count: int, source: Callable[[int], bytes]) -> int:
        vectors = self._vectors(at, count)
        content = source(sum(size for _, size in vectors))
        done = 0
        for pointer, size in vectors:
            part = content[done : done + size]
            self._write(pointer, part)
            done += len(part)
        return done

    # -- arguments, environment, clocks, random

    def args_sizes_get(self, count: int, size: int) -> None:
        self._texts_sizes(self._arguments, count, size)

    def args_get(self, pointers: int, texts: int) -> None:
        self._texts(self._arguments, pointers, texts)

    def environ_sizes_get(self, count: int, size: int) -> None:
        self._texts_sizes(self._environment, count, size)

    def environ_get(self, pointers: int, texts: int) -> None:
        self._texts(self._environment, pointers, texts)

    def _texts_sizes(self, texts: Sequence[bytes], count: int, size: int) -> None:
        self._u32(count, len(texts))
        self._u32(size, sum(map(len, texts)))

    def _texts(self, texts: Sequence[bytes], pointers: int, at: int) -> None:
        for index, each in enumerate(texts):
            self._u32(pointers + 4 * index, at)
            self._write(at, each)
            at += len(each)

    def clock_res_get(self, clock: int, out: int) -> None:
        self._u64(out, int(time.clock_getres(clock_id(clock)) * 1e9) or 1)

    def clock_time_get(self, clock: int, precision: int, out: int) -> None:
        self._u64(out, time.clock_gettime_ns(clock_id(clock)))

    def random_get(self, at: int, size: int) -> None:
        size &= 0xFFFFFFFF
        if size > IO_LIMIT_BYTES:
            raise Errno(INVAL)
        self._write(at, os.urandom(size))

    def proc_exit(self, code: int) -> None:
        """Ends the call: a module of the contract has nothing to exit from."""
        raise Exited(code & 0xFFFFFFFF)

    def poll_oneoff(self, subscriptions: int, events: int, count: int, out: int) -> None:
        """Waits for clocks, as long as it takes: what bounds it is the deadline of the event. All else is ready at once."""
        count &= 0xFFFFFFFF
        if not 0 < count <= VECTORS_LIMIT:
            raise Errno(INVAL)
        raw = self._read(subscriptions, 48 * count)
        waits, ready = [], []
        for index in range(count):
            userdata, kind = struct.unpack_from("<QB", raw, 48 * index)
            if kind != 0:
                (number,) = struct.unpack_from("<I", raw, 48 * index + 16)
                error = INVAL if kind > 2 else OK if number in self._open else BADF
                ready.append(struct.pack("<QHB5xQH6x", userdata, error, kind, not error, 0))
                continue
            clock, timeout, _, flags = struct.unpack_from("<IxxxxQQH", raw, 48 * index + 16)
            now = time.clock_gettime_ns(clock_id(clock))
            waits.append((max(0, timeout - now) if flags & 1 else timeout, struct.pack("<QHB5xQH6x", userdata, OK, 0, 0, 0)))
        if not ready:
            shortest = min(wait for wait, _ in waits)
            time.sleep(min(shortest, SLEEP_LIMIT_NS) / 1e9)
            ready = [event for wait, event in waits if wait <= shortest]
        self._write(events, b"".join(ready))
        self._u32(out, len(ready))

    # -- descriptors

    def _find(self, number: int, *, real: bool = False, folder: bool = False) -> Descriptor:
        found = self._open.get(number & 0xFFFFFFFF)
        if found is None:
            raise Errno(BADF)
        if real and found.real < 0:
            raise Errno(SPIPE)
        if folder and found.kind != FOLDER:
            raise Errno(NOTDIR)
        return found

    def _writable(self, number: int) -> Descriptor:
        found = self._find(number)
        if not found.writable:
            raise Errno(NOTCAPABLE if found.kind == FOLDER else BADF)
        return self._find(number, real=True)

    def fd_write(self, number: int, vectors: int, count: int, out: int) -> None:
        found = self._find(number)
        content = self._gather(vectors, count)
        if found.lines is not None:
            found.lines.write(content)
            self._u32(out, len(content))
            return
        self._writable(number)
        if found.flags & APPEND:
            os.lseek(found.real, 0, os.SEEK_END)
        self._u32(out, self._room.write(found.real, content))

    def fd_read(self, number: int, vectors: int, count: int, out: int) -> None:
        found = self._find(number)
        if found.kind == FOLDER or not found.readable:
            raise Errno(ISDIR if found.kind == FOLDER else BADF)
        if found.real < 0:
            self._u32(out, self._scatter(vectors, count, self._input))
            return
        self._u32(out, self._scatter(vectors, count, lambda size: os.read(found.real, size)))

    def fd_pread(self, number: int, vectors: int, count: int, offset: int, out: int) -> None:
        found = self._find(number, real=True)
        if not found.readable:
            raise Errno(BADF)
        self._u32(out, self._scatter(vectors, count, lambda size: os.pread(found.real, size, checked_offset(offset))))

    def fd_pwrite(self, number: int, vectors: int, count: int, offset: int, out: int) -> None:
        found = self._writable(number)
        self._u32(out, self._room.pwrite(found.real, self._gather(vectors, count), checked_offset(offset)))

    def fd_seek(self, number: int, offset: int, whence: int, out: int) -> None:
        found = self._find(number, real=True)
        if whence not in WHENCE or found.kind == FOLDER:
            raise Errno(INVAL if whence not in WHENCE else BADF)
        self._u64(out, os.lseek(found.real, offset, WHENCE[whence]))

    def fd_tell(self, number: int, out: int) -> None:
        self.fd_seek(number, 0, 1, out)

    def fd_close(self, number: int) -> None:
        found = self._find(number)
        del self._open[number & 0xFFFFFFFF]
        if found.real >= 0 and not found.preopen:
            self._room.close(found.real)

    def fd_renumber(self, source: int, target: int) -> None:
        self._find(source), self._find(target)
        if source != target:
            self.fd_close(target)
            self._open[target] = self._open.pop(source)

    def fd_sync(self, number: int) -> None:
        os.fsync(self._find(number, real=True).real)

    fd_datasync = fd_sync

    def fd_advise(self, number: int, offset: int, size: int, advice: int) -> None:
        self._find(number, real=True)
        if not 0 <= advice <= 5:
            raise Errno(INVAL)

    def fd_allocate(self, number: int, offset: int, size: int) -> None:
        raise Errno(NOTSUP if self._find(number, real=True).kind == FILE else BADF)

    def fd_fdstat_get(self, number: int, out: int) -> None:
        found = self._find(number)
        self._write(out, struct.pack("<BxHxxxxQQ", found.kind, found.flags, *found.rights()))

    def fd_fdstat_set_flags(self, number: int, flags: int) -> None:
        found = self._find(number, real=True)
        if flags & ~(APPEND | NONBLOCK):
            raise Errno(NOTSUP)
        found.flags = flags

    def fd_fdstat_set_rights(self, number: int, base: int, inheriting: int) -> None:
        self._find(number)
        raise Errno(NOTSUP)

    def fd_filestat_get(self, number: int, out: int) -> None:
        found = self._find(number)
        self._stat(out, os.fstat(found.real) if found.real >= 0 else None)

    def fd_filestat_set_size(self, number: int, size: int) -> None:
        self._room.truncate(self._writable(number).real, checked_offset(size))

    def fd_filestat_set_times(self, number: int, accessed: int, modified: int, flags: int) -> None:
        found = self._writable(number)
        os.utime(found.real, ns=times(os.fstat(found.real), accessed, modified, flags))

    def fd_prestat_get(self, number: int, out: int) -> None:
        found = self._find(number)
        if not found.preopen:
            raise Errno(BADF)
        self._write(out, struct.pack("<BxxxI", 0, len(found.preopen.encode())))

    def fd_prestat_dir_name(self, number: int, at: int, size: int) -> None:
        found = self._find(number)
        name = found.preopen.encode()
        if not name:
            raise Errno(BADF)
        if len(name) > (size & 0xFFFFFFFF):
            raise Errno(NAMETOOLONG)
        self._write(at, name)

    def fd_readdir(self, number: int, at: int, size: int, cookie: int, out: int) -> None:
        found = self._find(number, real=True, folder=True)
        size &= 0xFFFFFFFF
        if size > IO_LIMIT_BYTES:
            raise Errno(INVAL)
        names = [".", "..", *sorted(os.listdir(found.real))]  # noqa: PTH208
        content = b""
        for index, name in enumerate(names[cookie:] if cookie >= 0 else (), cookie):
            if len(content) >= size:
                break
            try:
                about = os.stat(name if name != ".." else ".", dir_fd=found.real, follow_symlinks=False)
            except FileNotFoundError:
                continue
            raw = os.fsencode(name)
            content += struct.pack("<QQIBxxx", index + 1, about.st_ino, len(raw), file_type(about)) + raw
        self._write(at, content[:size])
        self._u32(out, min(size, len(content)))

    # -- paths

    def _path(self, at: int, size: int) -> str:
        size &= 0xFFFFFFFF
        if size > wasi_paths.PATH_LIMIT_BYTES:
            raise Errno(NAMETOOLONG)
        return wasi_paths.decode(self._read(at, size))

    def _folder(self, number: int) -> Descriptor:
        return self._find(number, real=True, folder=True)

    def path_open(
        self, number: int, lookup: int, at: int, size: int, how: int, base: int, inheriting: int, flags: int, out: int
    ) -> None:
        if len(self._open) >= MAX_DESCRIPTORS:
            raise Errno(MFILE)
        if flags & ~(APPEND | NONBLOCK):
            raise Errno(NOTSUP)
        read, write = bool(base & READ_RIGHT), bool(base & WRITE_RIGHT)
        path = self._path(at, size)
        opened = self.folders.open(
            self._folder(number), path, how, follow=bool(lookup & FOLLOW), read=read, write=write, flags=flags
        )
        free = next(each for each in range(3, MAX_DESCRIPTORS + 3) if each not in self._open)
        self._open[free] = opened
        self._u32(out, free)

    def path_create_directory(self, number: int, at: int, size: int) -> None:
        self.folders.make(self._folder(number), self._path(at, size))

    def path_remove_directory(self, number: int, at: int, size: int) -> None:
        self.folders.remove(self._folder(number), self._path(at, size))

    def path_unlink_file(self, number: int, at: int, size: int) -> None:
        self.folders.unlink(self._folder(number), self._path(at, size))

    def path_rename(self, number: int, at: int, size: int, target: int, to: int, to_size: int) -> None:
        self.folders.rename(self._folder(number), self._path(at, size), self._folder(target), self._path(to, to_size))

    def path_filestat_get(self, number: int, lookup: int, at: int, size: int, out: int) -> None:
        self._stat(out, self.folders.about(self._folder(number), self._path(at, size), follow=bool(lookup & FOLLOW)))

    def path_filestat_set_times(
        self, number: int, lookup: int, at: int, size: int, accessed: int, modified: int, flags: int
    ) -> None:
        folder, path = self._folder(number), self._path(at, size)
        self.folders.set_times(folder, path, accessed, modified, flags, follow=bool(lookup & FOLLOW))

    def path_readlink(self, number: int, at: int, size: int, to: int, room: int, out: int) -> None:
        target = self.folders.read_link(self._folder(number), self._path(at, size))[: room & 0xFFFFFFFF]
        self._write(to, target)
        self._u32(out, len(target))

    def path_link(self, number: int, lookup: int, at: int, size: int, target: int, to: int, to_size: int) -> None:
        if lookup & FOLLOW:
            raise Errno(INVAL)
        self.folders.link(self._folder(number), self._path(at, size), self._folder(target), self._path(to, to_size))

    def path_symlink(self, at: int, size: int, number: int, to: int, to_size: int) -> None:
        self.folders.symlink(self._path(at, size), self._folder(number), self._path(to, to_size))

    def _no_socket(self, number: int, *_: int) -> None:
        self._find(number)
        raise Errno(NOTSOCK)

    def _stat(self, out: int, about: os.stat_result | None) -> None:
        if about is None:
            self._write(out, struct.pack("<QQBxxxxxxxQQQQQ", 0, 0, 2, 1, 0, 0, 0, 0))
            return
        self._write(
            out,
            struct.pack(
                "<QQBxxxxxxxQQQQQ", about.st_dev, about.st_ino, file_type(about), about.st_nlink, about.st_size,
                *(max(0, each) for each in (about.st_atime_ns, about.st_mtime_ns, about.st_ctime_ns)),  # files older than 1970
            ),
        )  # fmt: skip


_NAMES = tuple(name for name in vars(Wasi) if name.startswith(("args_", "environ_", "clock_", "random_", "poll_", "fd_", "path_")))
_SOCKETS = ("sock_accept", "sock_recv", "sock_send", "sock_shutdown")
FUNCTIONS = (*_NAMES, *_SOCKETS, "proc_exit", "proc_raise", "sched_yield")
