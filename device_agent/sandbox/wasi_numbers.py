"""Numbers of WASI preview 1 (phases/snapshot/docs.md), and what turns the kernel's into them."""

import errno
import os
import stat
import time

from ota.formats.interfaces import ERROR_CODES

OK, BADF, EXIST, FAULT, INVAL, IO, ISDIR, LOOP, MFILE, NAMETOOLONG, NOENT = 0, 8, 20, 21, 28, 29, 31, 32, 33, 37, 44
NOSPC, NOSYS, NOTDIR, NOTEMPTY, NOTSUP, PERM, SPIPE, NOTCAPABLE, FBIG, ACCES, OVERFLOW = 51, 52, 54, 55, 58, 63, 70, 76, 22, 2, 61
BUSY, MLINK, NOMEM, NOTSOCK, NXIO, ROFS, XDEV, ILSEQ = 10, 34, 48, 57, 60, 69, 75, 25
SECOND_NS = 1_000_000_000
ERRORS = {
    errno.EACCES: ACCES, errno.EBADF: BADF, errno.EEXIST: EXIST, errno.EINVAL: INVAL, errno.EISDIR: ISDIR, errno.ELOOP: LOOP,
    errno.EMFILE: MFILE, errno.ENAMETOOLONG: NAMETOOLONG, errno.ENOENT: NOENT, errno.ENOSPC: NOSPC, errno.ENOTDIR: NOTDIR,
    errno.ENOTEMPTY: NOTEMPTY, errno.EPERM: PERM, errno.ESPIPE: SPIPE, errno.EFBIG: FBIG, errno.EDQUOT: NOSPC,
    errno.EBUSY: BUSY, errno.EMLINK: MLINK, errno.ENOMEM: NOMEM, errno.ENXIO: NXIO, errno.EROFS: ROFS, errno.EXDEV: XDEV,
}  # fmt: skip
FILE_TYPES = {stat.S_IFBLK: 1, stat.S_IFCHR: 2, stat.S_IFDIR: 3, stat.S_IFREG: 4, stat.S_IFLNK: 7}
STREAM, FOLDER, FILE = 2, 3, 4
CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8
APPEND, NONBLOCK = 1, 4
FOLLOW = 1  # of lookupflags: a symbolic link at the end of a path


def _rights(*bits: int) -> int:
    return sum(1 << bit for bit in bits)


READ_RIGHT, WRITE_RIGHT = _rights(1), _rights(6)
ALL_RIGHTS = (1 << 29) - 1
WRITE_RIGHTS = _rights(6, 8, 9, 10, 11, 12, 16, 17, 19, 20, 22, 23, 24, 25, 26)
FILE_RIGHTS = _rights(*range(9), 21, 22, 23, 27)
FOLDER_RIGHTS = _rights(*range(9, 19), 20, 21, 23, 24, 25, 26)
STREAM_RIGHTS = _rights(1, 6, 21, 27)  # not to seek: by that C libraries know a terminal, to which they write every line at once
WHENCE = {0: os.SEEK_SET, 1: os.SEEK_CUR, 2: os.SEEK_END}


_CODES = {
    ACCES: "access", BADF: "bad-descriptor", BUSY: "busy", EXIST: "exist", FBIG: "file-too-large", ILSEQ: "illegal-byte-sequence",
    INVAL: "invalid", IO: "io", ISDIR: "is-directory", LOOP: "loop", MLINK: "too-many-links", NAMETOOLONG: "name-too-long",
    NOENT: "no-entry", NOMEM: "insufficient-memory", MFILE: "insufficient-memory", NOSPC: "insufficient-space",
    NOTDIR: "not-directory", NOTEMPTY: "not-empty", NOTSUP: "unsupported", NXIO: "no-such-device", OVERFLOW: "overflow",
    PERM: "not-permitted", NOTCAPABLE: "not-permitted", ROFS: "read-only", SPIPE: "invalid-seek", XDEV: "cross-device",
}  # fmt: skip


def error_code(number: int) -> int:
    """The number of wasi:filesystem's error code for one of preview 1's."""
    return ERROR_CODES.index(_CODES.get(number, "io"))


class Errno(Exception):
    """A call failed; the number is what the module gets."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def number_of(error: Errno | OSError) -> int:
    """Preview 1's number for an error."""
    return error.number if isinstance(error, Errno) else ERRORS.get(error.errno or 0, IO)


def clock_id(number: int) -> int:
    """The kernel's clock. Raises Errno."""
    if number == 0:
        return time.CLOCK_REALTIME
    if number == 1:
        return time.CLOCK_MONOTONIC
    raise Errno(INVAL)


def checked_offset(value: int) -> int:
    """An offset that is none of the negative ones. Raises Errno."""
    if value < 0:
        raise Errno(INVAL)
    return value


def file_type(about: os.stat_result) -> int:
    """The number of a file's type."""
    return FILE_TYPES.get(stat.S_IFMT(about.st_mode), 0)


def times(about: os.stat_result, accessed: int, modified: int, flags: int) -> tuple[int, int]:
    """Times of access and change in nanoseconds, of the flags of *_filestat_set_times. Raises Errno."""
    if flags & 3 == 3 or flags & 12 == 12 or (flags & 1 and accessed < 0) or (flags & 4 and modified < 0):
        raise Errno(INVAL)
    now = time.time_ns()
    first = accessed if flags & 1 else now if flags & 2 else about.st_atime_ns
    second = modified if flags & 4 else now if flags & 8 else about.st_mtime_ns
    return first, second
