"""Keeping memory shared between a process and those that it forks.

A forked process shares all pages with its parent until one of them writes to a page. CPython writes to nearly every page that it
only reads, because it counts references in the objects themselves; and new objects fill the holes that earlier ones left, a few
bytes in each of many pages. `keep_shared` takes both reasons away, in the parent, before it forks.
"""

import ctypes
import gc
import sys

# Of pymalloc (Include/internal/pycore_obmalloc.h): alignment, size of a pool, and what is in a pool in front of its first block.
_ALIGNMENT_BYTES, _POOL_BYTES, _POOL_HEAD_BYTES = (16, 1 << 14, 48) if sys.maxsize > 1 << 32 else (8, 1 << 12, 32)
_POOL_BLOCK_BYTES = 512  # its largest
_LIMIT_BYTES = 64 << 10  # for blocks of one size of pymalloc's, wherever they come from
_CHUNKS = 4096  # of one size of malloc's
_BESIDE_TOP_BYTES = 120 << 10  # less than what malloc takes from mmap
_REFERENCES = 1000


def keep_shared() -> bool:
    """Counts no references to what there is now, where Python can do without (CPython 3.12 and later), and fills the holes in it.

    Returns whether references are not counted any more. What there is now is never freed from then on, and the process must end by
    `os._exit`: for one that does nothing but fork. Costs about 0.1 s of a fast processor.
    """
    gc.collect()
    immortal = _make_immortal()
    _fill_holes_of_malloc()
    _fill_holes_of_pymalloc()
    gc.freeze()
    return immortal


def _immortal_count() -> int | None:
    """The reference count that stands for "not counted" (PEP 683), read from None; None where there is none, or where it does
    not lie where it did in 3.12 to 3.14.
    """
    probe = object()
    of_none, of_probe = (ctypes.c_uint32.from_address(id(each)) for each in (None, probe))
    immortal, before = of_none.value, of_probe.value
    held = [None, probe] * _REFERENCES
    counted = of_none.value - immortal, of_probe.value - before
    del held
    if counted != (0, _REFERENCES):
        return None
    of_probe.value = immortal
    held = [probe] * _REFERENCES
    return immortal if len(held) and of_probe.value == immortal else None


def _make_immortal() -> bool:
    count = _immortal_count()
    if count is None:
        return False
    source = ctypes.c_uint32(count)
    at, copy, size = ctypes.addressof(source), ctypes.memmove, ctypes.sizeof(source)
    word = ctypes.c_uint32.from_address
    waiting = [gc.get_objects()]
    while waiting:  # depth first: the lists that wait are few
        for each in waiting.pop():
            if word(id(each)).value != count:
                copy(id(each), at, size)
                waiting.append(gc.get_referents(each))
    return True


def _fill_holes_of_malloc() -> None:
    """Takes what is free between other chunks, so that what is allocated later lies together, at the top of the heap."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    library.free.restype, library.free.argtypes = None, (ctypes.c_void_p,)
    if (trim := getattr(library, "malloc_trim", None)) is not None:  # glibc: the pages of large holes go back
        trim(ctypes.c_size_t(0))
    top = library.malloc(_BESIDE_TOP_BYTES)
    for size in (*range(1 << 16, 1 << 12, -(1 << 12)), *range(1 << 12, 1 << 10, -64), *range(1 << 10, 0, -_ALIGNMENT_BYTES)):
        for _ in range(_CHUNKS):
            chunk = library.malloc(size - _ALIGNMENT_BYTES // 2)  # a word of each is malloc's own
            if chunk is None or top is None or chunk > top:
                library.free(chunk)
                break
    library.free(top)


_FILLING: list[bytes] = []


def _fill_holes_of_pymalloc() -> None:
    """Takes the free blocks of pools that are in use, so that what is allocated later comes from pools of its own."""
    head = sys.getsizeof(b"")
    for size in range(head // _ALIGNMENT_BYTES * _ALIGNMENT_BYTES + _ALIGNMENT_BYTES, _POOL_BLOCK_BYTES + 1, _ALIGNMENT_BYTES):
        for _ in range(_LIMIT_BYTES // size):
            block = bytes(size - head)
            if id(block) % _POOL_BYTES == _POOL_HEAD_BYTES:  # the first of a new pool
                break
            _FILLING.append(block)
