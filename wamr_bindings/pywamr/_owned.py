"""What holds something of the library's, and is therefore one object in one process."""

from typing import NoReturn


class Owned:
    """Base of all that stands for memory of WAMR's: a second object for the same memory would free it under the first."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:  # what copy and pickle begin with
        kind = type(self).__name__
        raise TypeError(f"a {kind} of pywamr can't be copied or pickled: load and instantiate the bytes of the module again")
