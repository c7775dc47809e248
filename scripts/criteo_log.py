"""Write a log in the shape of Criteo's: a label, 13 numbers of which some are missing, 26 categories with Zipf values.

    python scripts/criteo_log.py ROWS FILE

Tab-separated, no header, categories as 8 hexadecimal digits. The label depends on both kinds of field, so that a model
has something to learn. Rows are written in pieces: memory does not grow with their number, and the first million
rows of any two files are the same.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

NUMBERS, MISSING = 13, 0.1
VOCABULARY = np.geomspace(4, 300_000, 26).astype(int)
EXPONENT = 1.1
PIECE = 250_000


def write_log(path: Path, n_rows: int) -> None:
    """Write the log."""
    world = np.random.default_rng(1)
    weights = [1.0 / np.arange(1, size + 1) ** EXPONENT for size in VOCABULARY]
    shares = [np.cumsum(weight / weight.sum()) for weight in weights]
    effects = [world.normal(0, 0.35, size) for size in VOCABULARY]
    texts = [
        pl.Series([f"{(v * 2654435761 + f * 97) & 0xFFFFFFFF:08x}" for v in range(n)]) for f, n in enumerate(VOCABULARY)
    ]
    with path.open("wb") as file:
        for start in range(0, n_rows, PIECE):
            rng = np.random.default_rng([1, start])
            n = min(PIECE, n_rows - start)
            numbers = np.floor(rng.lognormal(2.0, 1.5, (n, NUMBERS))).astype(np.int64)
            score = 0.3 * np.log1p(numbers).mean(1)
            categories = [np.minimum(np.searchsorted(share, rng.random(n)), len(share) - 1) for share in shares]
            for values, effect in zip(categories, effects, strict=True):
                score += effect[values]
            label = rng.random(n) < 1 / (1 + np.exp(1.0 - score))
            columns = {"label": pl.Series(label.astype(np.int8))}
            for field in range(NUMBERS):
                kept = pl.Series(rng.random(n) >= MISSING)
                columns[f"I{field + 1}"] = (
                    pl.Series(numbers[:, field]).to_frame("x").select(pl.when(kept).then(pl.col("x")))["x"]
                )
            for field, values in enumerate(categories):
                columns[f"C{field + 1}"] = texts[field].gather(values)
            pl.DataFrame(columns).write_csv(file, include_header=False, separator="\t")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    write_log(arguments.file, arguments.rows)
