"""Splitting rows into train, valid and test: by group, by time, or at random. Pure functions of the rows and a seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TRAIN, VALID, TEST = 0, 1, 2


def random_split(rows: int, *, valid: float, test: float, seed: int) -> NDArray[np.int8]:
    """(rows,) codes; exactly the asked shares, to the nearest row."""
    order = np.random.default_rng(seed).permutation(rows)
    return _by_order(order, valid=valid, test=test)


def time_split(times: NDArray[Any], *, valid: float, test: float) -> NDArray[np.int8]:
    """(rows,) codes: the latest rows are test, those before them valid. Rows of one instant stay together."""
    rows = len(times)
    ordered = np.sort(times)
    test_from = ordered[min(rows - 1, rows - round(rows * test))]
    valid_from = ordered[min(rows - 1, rows - round(rows * test) - round(rows * valid))]
    codes = np.full(rows, TRAIN, np.int8)
    codes[times >= valid_from] = VALID
    codes[times >= test_from] = TEST
    return codes


def group_split(groups: Sequence[Any], *, valid: float, test: float, seed: int) -> NDArray[np.int8]:
    """(rows,) codes: all rows of a group in one split, the shares of rows as close to the asked ones as groups allow.

    Groups come largest first (by powers of two of their rows) and inside a size in the order of a seeded hash, and each
    goes to the split that is least full for its share, among train and those that can still hold it whole. So every
    split gets groups of all sizes alike, and one giant group goes to train instead of blowing up test. The result does
    not depend on the order of rows.
    """
    codes, names = pd.factorize(np.asarray(groups, dtype=object))
    sizes = np.bincount(codes, minlength=len(names))
    hashes = [_hash(seed, name) for name in names]
    order = sorted(range(len(names)), key=lambda g: (-int(sizes[g]).bit_length(), hashes[g]))
    shares = (1.0 - valid - test, valid, test)
    filled = [0, 0, 0]
    split_of = np.zeros(len(names), np.int8)
    for group in order:
        size = int(sizes[group])
        holding = [TRAIN] + [s for s in (VALID, TEST) if filled[s] + size <= math.ceil(shares[s] * len(codes))]
        split = min(holding, key=lambda s: filled[s] / shares[s])
        filled[split] += size
        split_of[group] = split
    for split in (VALID, TEST):  # few groups: a small share may have got none though there are enough for all three
        if not filled[split] and len(names) >= 3:
            donors = [g for g in order if split_of[g] == TRAIN]
            moved = min(reversed(donors), key=lambda g: int(sizes[g]))
            split_of[moved] = split
            filled[split] += int(sizes[moved])
    return split_of[codes]


def _by_order(order: NDArray[np.int64], *, valid: float, test: float) -> NDArray[np.int8]:
    rows = len(order)
    tests, valids = round(rows * test), round(rows * valid)
    codes = np.full(rows, TRAIN, np.int8)
    codes[order[:tests]] = TEST
    codes[order[tests : tests + valids]] = VALID
    return codes


def _hash(seed: int, name: Any) -> bytes:
    return hashlib.blake2b(f"{seed}\x00{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
