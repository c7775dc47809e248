"""Preparation of a Criteo-shaped log: CPU time, memory and disk, beside a bare pyarrow encoder on the same file.

    python scripts/peers/prepare.py --rows 1000000 3000000 10000000 [--floor] [--fuxictr PYTHON] [--json FILE]

Each size is generated (scripts/criteo_log.py), prepared in a process of its own with an empty cache, and opened again
in another. Categories get ids from training rows, numbers are standardised on training rows, rows are split 8:1:1 at
random. The floor reads the file with pyarrow, encodes and standardises with all rows in memory and writes Parquet.
CPU seconds are of the process, imports left out (those of recbench are in ``start_s``).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from criteo_shaped import CARD, CATEGORIES, NUMBERS, PROTOCOL


def spent() -> float:
    """CPU seconds of this process so far, interpreter and imports included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def prepare(file: Path) -> dict:
    from recbench.data.cards import Card
    from recbench.data.protocols import Labelled
    from recbench.resources import home

    card = Card.model_validate(CARD)
    place = home() / "datasets" / card.name / card.version / "log.tsv"
    if not place.exists():
        place.parent.mkdir(parents=True)
        os.link(file, place)
    protocol = Labelled.model_validate(PROTOCOL)
    import polars  # noqa: F401  (its import belongs to the start)

    before, began = spent(), time.perf_counter()
    prepared = protocol.prepare(card)
    arrays = {part: prepared.part(part) for part in ("train", "valid", "test")}
    wall, cpu = time.perf_counter() - began, spent() - before
    disk = sum(path.stat().st_size for path in prepared.directory.rglob("*") if path.is_file())
    sizes = {field["name"]: field["size"] for field in prepared.meta["fields"]}
    rows = {part: len(found["labels"]) for part, found in arrays.items()}
    return {
        "start_s": before,
        "cpu_s": cpu,
        "wall_s": wall,
        "parts": rows,
        "vocabulary": sum(sizes.values()),
        "disk_mb": disk / 1e6,
    }


def floor(file: Path) -> dict:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pcsv
    import pyarrow.parquet as pq

    before, began = spent(), time.perf_counter()
    names = ["label", *NUMBERS, *CATEGORIES]
    types = {name: pa.string() if name in CATEGORIES else pa.float32() for name in names}
    table = pcsv.read_csv(
        file,
        read_options=pcsv.ReadOptions(column_names=names),
        parse_options=pcsv.ParseOptions(delimiter="\t"),
        convert_options=pcsv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )
    columns = {"label": table["label"]}
    for name in NUMBERS:
        known = pc.fill_null(table[name], 0.0)
        columns[name] = pc.divide(pc.subtract(known, pc.mean(known)), pc.stddev(known))
    for name in CATEGORIES:
        columns[name] = pc.index_in(table[name], pc.unique(table[name]))
    out = file.with_suffix(".parquet")
    pq.write_table(pa.table(columns), out)
    disk = out.stat().st_size / 1e6
    out.unlink()
    return {"cpu_s": spent() - before, "wall_s": time.perf_counter() - began, "disk_mb": disk}


def in_process(what: str, file: Path, threads: int, home: Path) -> dict:
    environment = os.environ | {
        "RECBENCH_HOME": str(home),
        "POLARS_MAX_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, __file__, "--only", what, str(file), "--threads", str(threads)]
    if what.startswith("fuxictr "):
        command = [what.partition(" ")[2], str(Path(__file__).with_name("fuxictr_prepare.py")), str(file)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--floor", action="store_true", help="time the pyarrow encoder too")
    parser.add_argument("--fuxictr", metavar="PYTHON", help="time FuxiCTR too, in the environment of that interpreter")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        what, file = arguments.only
        if what == "floor":
            import pyarrow as pa

            pa.set_cpu_count(arguments.threads)
        figures = {"prepare": prepare, "open": prepare, "floor": floor}[what](Path(file))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures | {"peak_mb": peak}))
        return
    generator = str(Path(__file__).parents[1] / "criteo_log.py")
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for n_rows in arguments.rows:
            file = Path(scratch) / f"{n_rows}.tsv"
            # In a process of its own: the peak memory of a child counts that of its parent when it is started.
            subprocess.run([sys.executable, generator, str(n_rows), str(file)], check=True)
            home = Path(scratch) / f"home-{n_rows}"
            whats = ["prepare", "open", *(["floor"] if arguments.floor else [])]
            for job in [*whats, *([f"fuxictr {arguments.fuxictr}"] if arguments.fuxictr else [])]:
                figures = in_process(job, file, arguments.threads, home)
                what = job.partition(" ")[0]
                results.append({"what": what, "rows": n_rows, "raw_mb": file.stat().st_size / 1e6} | figures)
                per_million = figures["cpu_s"] / n_rows * 1e6
                print(
                    f"{what:8} {n_rows:>10,} rows: CPU {figures['cpu_s']:7.2f} s ({per_million:.2f} a million rows), "
                    f"wall {figures['wall_s']:7.2f} s, {n_rows / figures['wall_s']:>11,.0f} rows/s, "
                    f"peak {figures['peak_mb']:5.0f} MB, disk {figures['disk_mb']:6.0f} MB",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
