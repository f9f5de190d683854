"""Splitting rows into train, valid and test: as a column says, by group, by time, or at random.

Pure functions of the rows and a seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TRAIN, VALID, TEST = 0, 1, 2


def column_split(values: Sequence[Any], names: Sequence[str]) -> NDArray[np.int8]:
    """(rows,) codes: where each value stands among ``names``; -1 for one that is none of them."""
    codes = {name: code for code, name in enumerate(names)}
    return np.array([codes.get(value, -1) if isinstance(value, str) else -1 for value in values], np.int8)


def hold_back(
    codes: NDArray[np.int8], *, groups: Sequence[Any] | None = None, valid: float, seed: int
) -> NDArray[np.int8]:
    """(rows,) codes with a share of the training rows made valid: whole groups where they are given, (rows,)."""
    train = np.flatnonzero(codes == TRAIN)
    if groups is None:
        held = random_split(len(train), valid=valid, test=0.0, seed=seed)
    else:
        held = group_split([groups[row] for row in train.tolist()], valid=valid, test=0.0, seed=seed)
    changed = codes.copy()
    changed[train] = held
    return changed


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
    wanted = [split for split in (VALID, TEST) if shares[split]]
    for split in wanted:  # few groups: a small share may have got none though there are enough for all
        if not filled[split] and len(names) > len(wanted):
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
