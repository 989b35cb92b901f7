"""Pickles of NumPy arrays, opened without running anything that is in them: the only unpickler here.

A pickle is a program. Here it may build NumPy arrays, built-in containers, numbers and texts; any other name in it is refused
before it is looked up.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np


class Fields:
    """Stands for an object of somebody's class: takes its fields, as ``vars`` shows them, and does nothing."""


def read_pickle(path: Path, *, expected: str, objects: tuple[tuple[str, str], ...] = ()) -> Any:
    """What is pickled in ``path``, with nothing in it but arrays, containers, numbers and texts.

    ``objects``: (module, name) of classes whose objects become `Fields`. ``expected``: what the file should be, for the error.
    Raises ValueError, one line that names the file: unreadable, or naming anything else.
    """
    admitted = {**_ADMITTED, **dict.fromkeys(objects, Fields)}
    try:
        with path.open("rb") as stream:
            return _Restricted(stream, admitted).load()
    except _Refused as error:
        raise ValueError(f"{path} is refused: {error}; expected {expected}, do not open it elsewhere either") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}".replace("\n", " ")) from error


class _Refused(pickle.UnpicklingError):
    """The pickle names something that is no array."""


def _bytes(text: str, codec: str) -> bytes:
    """How Python 3 writes bytes so that Python 2 could read them."""
    if codec != "latin1":
        raise _Refused(f"it wants the codec {codec!r}")
    return text.encode(codec)


#: NumPy's own functions by which its arrays and numbers are pickled, under the names they had and have: protocols to 4, and 5.
_reconstruct = np.zeros(1).__reduce__()[0]
_frombuffer = np.zeros(1).__reduce_ex__(5)[0]
_scalar = np.float64(0).__reduce__()[0]

#: All that a pickle may name.
_ADMITTED: Mapping[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _bytes,
}


class _Restricted(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], admitted: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(stream, encoding="latin1")  # what Python 2 wrote has bytes where arrays are
        self._admitted = admitted

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise _Refused(f"it wants to call {module}.{name}")
        return self._admitted[module, name]
