"""More rows than are wanted: some are drawn while the data is read, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sparsefront.models import data_file
from sparsefront.models.task import Task
from sparsefront.spaces import InputError

CONTENT = {
    "text": ["query", "title"],
    "label": {"column": "click", "kind": "binary"},
    "numeric": "price",
    "categorical": "shop",
    "max_rows": 300,
}
MIB = 2**20


def frame_of(rows: int) -> pd.DataFrame:
    at = np.arange(rows)
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "query": [f"0{row % 977}" for row in at],
            "title": [f"title {row}" for row in at],
            "click": rng.integers(0, 2, rows),
            "price": np.where(at % 7 == 0, np.nan, rng.random(rows)),
            "shop": [f"shop, {row % 50}" for row in at],
            "place": at,
        }
    )


def write(folder: Path, data: str, **changes: object) -> Path:
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({"data": data, **CONTENT, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize("data", ["rows.csv", "rows.tsv", "rows.parquet", "parts"])
def test_rows_are_drawn_from_all_pieces_in_their_order(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_file, "CHUNK_ROWS", 400)
    frame = frame_of(6000)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_csv(tmp_path / "rows.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "parts").mkdir()
    for part in range(3):
        frame[2000 * part :][:2000].to_parquet(tmp_path / "parts" / f"{part}.parquet")
    task = Task.from_file(write(tmp_path, data))
    places = task.frame["place"].tolist()
    assert len(task) == 300 and places == sorted(places) and len(set(places)) == 300
    counts = np.histogram(places, bins=6, range=(0, 6000))[0]
    assert counts.min() > 25, "about 50 from each of the sixths"
    pd.testing.assert_frame_equal(task.frame, frame.iloc[places].reset_index(drop=True))
    assert Task.from_file(tmp_path / "task.yaml").fingerprint == task.fingerprint
    other = Task.from_file(write(tmp_path, data, split={"seed": 1}))
    assert other.frame["place"].tolist() != places and other.fingerprint != task.fingerprint
    every = Task.from_file(write(tmp_path, data, max_rows=6000))
    assert every.frame["place"].tolist() == list(range(6000))


def test_every_row_is_as_likely(tmp_path: Path) -> None:
    pieces = [frame_of(90)[at : at + 9] for at in range(0, 90, 9)]
    seen = np.zeros(90)
    for seed in range(400):
        seen[data_file.draw_rows(iter(pieces), 20, seed)["place"]] += 1
    assert seen.sum() == 400 * 20
    assert abs(seen - 400 * 20 / 90).max() < 5 * np.sqrt(400 * 20 / 90), "five standard deviations"


def test_rows_from_memory_are_drawn_too() -> None:
    task = Task.from_frame(frame_of(1000), CONTENT)
    places = task.frame["place"].tolist()
    assert len(places) == 300 == len(set(places)) and places == sorted(places)
    frame = frame_of(1000)
    pieces = data_file.draw_rows([frame[:7], frame[7:640], frame[640:]], 300, 0)
    assert pieces["place"].tolist() == places, "how the rows are cut into pieces does not matter"


def test_what_is_wrong_is_said_of_the_rows_that_were_drawn(tmp_path: Path) -> None:
    frame = frame_of(1000)
    frame["click"] = 7
    frame.to_parquet(tmp_path / "rows.parquet")
    path = write(tmp_path, "rows.parquet")
    with pytest.raises(InputError, match=r"rows\.parquet: of 300 rows drawn from it: row 1: label 'click' is 7"):
        Task.from_file(path)
    (tmp_path / "rows.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"rows\.parquet: not a readable Parquet file"):
        Task.from_file(path)
    (tmp_path / "rows.csv").write_bytes(b"query,title,click,price,shop\n\xff\xfe,b,1,2,c\n")
    with pytest.raises(InputError, match=r"rows\.csv: not a UTF-8 CSV file"):
        Task.from_file(write(tmp_path, "rows.csv"))
    (tmp_path / "rows.csv").write_text("query,title,click,price,shop\na,b,1,2,c,surplus\n")
    with pytest.raises(InputError, match=r"rows\.csv: rows have more fields than the header's 5 names"):
        Task.from_file(write(tmp_path, "rows.csv"))
    (tmp_path / "parts").mkdir()
    frame.to_parquet(tmp_path / "parts" / "0.parquet")
    frame.drop(columns="shop").to_parquet(tmp_path / "parts" / "1.parquet")
    with pytest.raises(InputError, match=r"1\.parquet: its columns .* differ from 0\.parquet's"):
        Task.from_file(write(tmp_path, "parts"))
    (tmp_path / "rows.csv").write_text("query,title,click,price,shop\n")
    frame[:0].to_parquet(tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        with pytest.raises(InputError, match=rf"{name}: there are no rows; expected at least 3"):
            Task.from_file(write(tmp_path, name))
    with pytest.raises(InputError, match=r"task\.yaml: max_rows: got 2; "):
        Task.from_file(write(tmp_path, "parts", max_rows=2))


@pytest.mark.parametrize("changes", [{}, {"max_rows": None}])
def test_columns_of_one_name_are_refused_by_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    frame = frame_of(1000)
    twice = pd.concat([frame, frame[["price"]]], axis=1)
    twice.to_csv(tmp_path / "rows.csv", index=False)
    twice.to_csv(tmp_path / "rows.tsv", index=False, sep="\t")
    columns = [pa.Array.from_pandas(twice.iloc[:, place]) for place in range(7)]
    pq.write_table(pa.Table.from_arrays(columns, names=list(twice.columns)), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.tsv", "rows.parquet"):
        with pytest.raises(InputError) as caught:
            Task.from_file(write(tmp_path, name, **changes))
        line = f"{tmp_path}/{name}: column 'price' stands there twice; expected different names"
        assert str(caught.value) == line
    frame.rename(columns={"place": ""}).assign(**{"price.1": 1}).to_csv(tmp_path / "rows.csv")
    names = list(Task.from_file(write(tmp_path, "rows.csv", **changes)).frame.columns)
    assert names == ["Unnamed: 0", "query", "title", "click", "price", "shop", "Unnamed: 6", "price.1"]


PROGRAM = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30,) * 2)
from sparsefront.models.task import Task
task = Task.from_file(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rows": len(task), "last": int(task.frame["place"].max()), "peak_mib": peak / 1024}))
"""


def test_ten_million_rows_are_read_within_four_gib(tmp_path: Path) -> None:
    frame = frame_of(1_000_000)
    first = tmp_path / "parts" / "0.parquet"
    first.parent.mkdir()
    frame.to_parquet(first)
    for part in range(1, 10):
        os.link(first, first.with_name(f"{part}.parquet"))
    path = write(tmp_path, "parts", max_rows=100_000)
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["rows"] == 100_000 and told["last"] > 999_000 and told["peak_mib"] < 4096
