"""Result directories with a known truth: synthetic, with the sizes and spreads of small public benchmarks."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recbench.running.result import (
    PER_USER,
    BudgetRecord,
    DatasetRecord,
    EnvironmentRecord,
    LeakageRecord,
    MemoryRecord,
    MetricsRecord,
    ModelRecord,
    ProtocolRecord,
    ReferenceRecord,
    Result,
    TimingRecord,
    result_dir,
    write_result,
)

USERS = 300
RANKING = ("ndcg@10", "recall@10", "hit@10", "ndcg@20", "recall@20", "mrr@10")


@dataclass(frozen=True)
class Fake:
    """A model whose true mean on every metric is ``truth``; seeds and users scatter about it.

    Without ``per_user`` its values per user are not kept; ``scored`` makes it a scored prediction file, whose cost is
    not known.
    """

    name: str
    truth: float
    seeds: Iterable[int] = range(5)
    deterministic: bool = False
    fails: str | None = None
    config: dict[str, Any] = field(default_factory=lambda: {"embedding_dim": 64})
    parameters: int = 125_440
    fit_s: float = 4.2
    reference: ReferenceRecord | None = None
    valid: float | None = None
    per_user: bool = True
    scored: bool = False
    leakage: LeakageRecord | None = None


def write_fake(out: Path, fake: Fake, seed: int, benchmark: str, split: str) -> None:
    directory = result_dir(out, benchmark, fake.name, seed)
    model = ModelRecord(
        name=fake.name,
        version="1",
        parameters=fake.parameters,
        deterministic=fake.deterministic,
        reference=fake.reference,
    )
    common = {"task": benchmark.partition("/")[0], "benchmark": benchmark, "seed": seed, "config": fake.config}
    if fake.fails:
        write_result(directory, Result(status="failed", error=fake.fails, **common))
        return
    chance = np.random.default_rng([sum(fake.name.encode()), 0 if fake.deterministic else seed])
    if benchmark.startswith("topn/"):
        # Users differ much more than models do, in the same way for every model.
        level = np.random.default_rng(7).normal(0, 0.15, USERS)
        scatter = chance.normal(0, 0.05, (len(RANKING), USERS))
        values = {name: fake.truth + level - level.mean() + scatter[k] for k, name in enumerate(RANKING)}
        directory.mkdir(parents=True)
        order = chance.permutation(USERS)  # files need not agree on the order of users
        users = pl.DataFrame({"user": [str(user) for user in order], **{k: v[order] for k, v in values.items()}})
        if fake.per_user:
            users.write_parquet(directory / PER_USER)
        test = {name: float(column.mean()) for name, column in values.items()}
        primary = "ndcg@10"
    else:
        test = {"auc": fake.truth + chance.normal(0, 0.001), "logloss": 1 - fake.truth + chance.normal(0, 0.001)}
        primary = "auc"
    valid = {name: (fake.valid if fake.valid is not None else value) for name, value in test.items()}
    write_result(
        directory,
        Result(
            status="finished",
            primary_metric=primary,
            dataset=DatasetRecord(name="ml-100k", version="1", sha256="ab" * 32),
            protocol=ProtocolRecord(name="random-8-1-1", version="1", split_sha256=split),
            model=model,
            metrics=MetricsRecord(valid=valid, test=test),
            timing=None
            if fake.scored
            else TimingRecord(
                prepare_s=0.4,
                fit_s=fake.fit_s + 0.1 * seed,
                epoch_s=[] if fake.deterministic else [0.5] * 8,
                evaluate_s=0.21,
                samples_per_s=None if fake.deterministic else 160_000.0,
                device_ms_per_step=None,
            ),
            memory=None if fake.scored else MemoryRecord(peak_rss_mb=612.0 + seed, peak_device_mb=None),
            leakage=fake.leakage,
            budget=BudgetRecord(trials=20, tune_s=310.0),
            environment=EnvironmentRecord(
                python="3.12.1",
                torch="2.13.0",
                cpu="two cores",
                device="cpu",
                driver=None,
                threads=2,
                git_commit=None,
                lock_sha256=None,
                packages={},
            ),
            **common,
        ),
    )
