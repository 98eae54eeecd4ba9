"""What is said in words: speeds, times, sizes, numbers of ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from graphshard.errors import DataError

_UNITS = {"bps": 1 / 8, "bit/s": 1 / 8, "B/s": 1.0}
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SIZES = {
    **{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40},
    **{"kB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1},
}
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def speed_of(text: str) -> float:
    """Bytes a second of ``10Gbps``, ``1.5 GB/s``, ``200 Mbit/s``.

    Raises:
        DataError: it says no speed.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kMGT]?)(bps|bit/s|B/s)\s*", text)
    if not found or float(found[1]) <= 0:
        raise DataError(f"{text!r} is no speed of a link: write it as 10Gbps, 200Mbit/s or 1.5GB/s")
    return float(found[1]) * _SCALES[found[2]] * _UNITS[found[3]]


def duration_of(text: str) -> float:
    """Seconds of ``50us``, ``1.5ms``.

    Raises:
        DataError: it says no time.
    """
    return _read(text, _TIMES, "time: write it as 50us or 1.5ms")


def size_of(text: str) -> int:
    """Bytes of ``16GiB``, ``500MB``.

    Raises:
        DataError: it says no size.
    """
    return int(_read(text, _SIZES, "size of memory: write it as 16GiB or 500MiB"))


def _read(text: str, units: Mapping[str, float], what: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(\w+)\s*", text)
    if not found or found[2] not in units:
        raise DataError(f"{text!r} is no {what}")
    return float(found[1]) * units[found[2]]


def numbers_of(text: str) -> tuple[int, ...]:
    """Numbers of ranks: ``2..16`` as 2, 4, 8, 16; ``2,3,8`` as they stand.

    Raises:
        DataError: it says none.
    """
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        first, last = int(found[1]), int(found[2])
        if 1 <= first <= last:
            doubled = [first]
            while doubled[-1] * 2 <= last:
                doubled.append(doubled[-1] * 2)
            return (*doubled, *([last] if doubled[-1] < last else []))
    elif re.fullmatch(r"\d+(,\d+)*", text) and all(map(int, text.split(","))):
        return tuple(map(int, text.split(",")))
    raise DataError(f"{text!r} is no numbers of ranks: write 2..64 or 2,3,8")
