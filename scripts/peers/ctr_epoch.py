"""Compare DeepFM, AutoInt and DCNv2 on ctr/ml-100k with bare hand-written loops: CPU seconds of one thread.

An epoch of training on the 80,000 training rows, and an evaluation (predictions, auc and logloss) of the 10,000
validation rows. Sizes of the peer libraries: embedding 10, perceptron 128-128-128 (AutoInt: 128-128), 3 attention
layers of 2 heads of 8, 3 cross layers, batches of 2048 for training and 4096 for evaluation, fused Adam. AutoInt is in
the form that FuxiCTR has: no scale, the identity as residual where the widths are equal. FuxiCTR and RecBole drop
attention weights with what else they drop, so it has no dropout; the perceptrons of the others have 0.2.

    python scripts/peers/ctr_epoch.py
    python scripts/peers/ctr_epoch.py --export FOLDER   # the same rows, for ctr_epoch_fuxictr.py, ctr_epoch_recbole.py
"""

import argparse
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import torch
from measuring import Work, cpu_seconds
from torch import Tensor, nn
from torch.nn import functional

from recbench.data.cards import load_card
from recbench.data.export import export
from recbench.data.store import Arrays, Prepared
from recbench.models.base import CTRModel
from recbench.models.ctr.autoint import AutoInt
from recbench.models.ctr.dcnv2 import DCNv2
from recbench.models.ctr.deepfm import DeepFM
from recbench.models.procedure import Phase
from recbench.tasks.base import Development, load_benchmark
from recbench.tasks.ctr import CTRBatch, CTRTask, FieldSpace
from recbench.training.optimizers import make_optimizer

REPEATS = 3
EVALUATIONS = 5
"""An evaluation is short: as many as this are one measurement."""
BATCH, EVALUATION_BATCH = 2048, 4096
DIM, WIDTH, HEADS, LAYERS = 10, 16, 2, 3
HIDDEN = {"deepfm": (128, 128, 128), "autoint": (128, 128), "dcnv2": (128, 128, 128)}
DROPOUT = {"deepfm": 0.2, "autoint": 0.0, "dcnv2": 0.2}


class Bare(nn.Module):
    """The three models written out, over an id matrix and a row-normalised genre matrix."""

    def __init__(self, kind: str, fields: FieldSpace) -> None:
        super().__init__()
        self.kind = kind
        (genres,) = fields.multi
        self.genres = slice(genres.offset, genres.offset + genres.size)
        self.table = nn.Embedding(fields.n_ids, DIM)
        widths = [len(fields) * DIM, *HIDDEN[kind]]
        hidden: list[nn.Module] = []
        for before, width in pairwise(widths):
            hidden += [nn.Linear(before, width), nn.ReLU()]
            if DROPOUT[kind]:
                hidden.append(nn.Dropout(DROPOUT[kind]))
        self.mlp = nn.Sequential(*hidden)
        beside = widths[0] if kind == "dcnv2" else 0
        self.output = nn.Linear(widths[-1] + beside, 1)
        if kind == "deepfm":
            self.first = nn.Embedding(fields.n_ids, 1)
        elif kind == "autoint":
            shapes = [(DIM, 4 * WIDTH), *[(WIDTH, 3 * WIDTH)] * (LAYERS - 1)]
            self.projections = nn.ModuleList(nn.Linear(*shape, bias=False) for shape in shapes)
            self.attended = nn.Linear(len(fields) * WIDTH, 1)
        else:
            self.cross = nn.ModuleList(nn.Linear(widths[0], widths[0]) for _ in range(LAYERS))

    def forward(self, ids: Tensor, genres: Tensor) -> Tensor:
        e = torch.cat([self.table(ids), (genres @ self.table.weight[self.genres]).unsqueeze(1)], 1)
        x = e.flatten(1)
        deep = self.mlp(x)
        if self.kind == "dcnv2":
            crossed = x
            for layer in self.cross:
                crossed = x * layer(crossed) + crossed
            return self.output(torch.cat([crossed, deep], 1)).squeeze(1)
        y = self.output(deep).squeeze(1)
        if self.kind == "deepfm":
            first = self.first(ids).sum((1, 2)) + (genres @ self.first.weight[self.genres]).squeeze(1)
            return y + first + 0.5 * (e.sum(1).pow(2) - e.pow(2).sum(1)).sum(1)
        for layer in self.projections:
            q, k, v, *residual = layer(e).split(WIDTH, 2)
            heads = [x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q, k, v)]
            attended = functional.scaled_dot_product_attention(*heads, scale=1.0).transpose(1, 2).flatten(2)
            e = functional.relu(attended + (residual[0] if residual else e))
        return y + self.attended(e.flatten(1)).squeeze(1)


def genre_shares(rows: CTRBatch, fields: FieldSpace) -> Tensor:
    """Return 1 / (number of the row's genres) for each genre that it has, else 0."""
    (genres,) = fields.multi
    ragged = rows.multi[genres.name]
    shares = torch.zeros(len(rows), genres.size)
    owner = ragged.rows()
    shares[owner, ragged.values - genres.offset] = 1 / ragged.lengths[owner].float()
    return shares


def bare(kind: str, fields: FieldSpace, train: CTRBatch, held: CTRBatch) -> tuple[Work, Work]:
    """Return the hand-written epoch and evaluation."""
    model = Bare(kind, fields)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    shares, held_shares = genre_shares(train, fields), genre_shares(held, fields)

    def epoch() -> None:
        model.train()
        for block in torch.randperm(len(train)).split(BATCH):
            logits = model(train.ids[block], shares[block])
            loss = functional.binary_cross_entropy_with_logits(logits, train.labels[block])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def evaluation() -> tuple[float, float]:
        model.eval()
        blocks = zip(held.ids.split(EVALUATION_BATCH), held_shares.split(EVALUATION_BATCH), strict=True)
        logits = torch.cat([model(*block) for block in blocks])
        # Ties have the mean of their ranks.
        _, level, counts = logits.unique(return_inverse=True, return_counts=True)
        ranks = (counts.cumsum(0) - (counts - 1) / 2)[level].double()
        positives = held.labels.sum().double()
        above = (ranks * held.labels).sum() - positives * (positives + 1) / 2
        loss = functional.binary_cross_entropy_with_logits(logits, held.labels)
        return float(above / (positives * (len(held) - positives))), float(loss)

    return epoch, evaluation


def ours(model: CTRModel, task: CTRTask, held: Arrays) -> tuple[Work, Work]:
    """Return the epoch of the model's own phase, and the task's evaluation."""
    (stage,) = model.procedure(task.data)
    (phase,) = stage.steps
    assert isinstance(phase, Phase)
    optimizer = make_optimizer(phase)
    generator = torch.Generator().manual_seed(1)

    def epoch() -> None:
        model.train()
        for batch in phase.batches.epoch(generator):
            optimizer.zero_grad()
            phase.loss(batch).backward()
            optimizer.step()

    @torch.no_grad()
    def evaluation() -> object:
        model.eval()
        return task.evaluate(model, held, metrics=("auc", "logloss")).metrics

    return epoch, evaluation


def write_rows(prepared: Prepared, folder: Path) -> None:
    """Write train.csv and valid.csv, genres separated by blanks."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        for path in export(prepared, Path(scratch) / "split"):
            if path.stem in ("train", "valid"):
                rows = pl.read_parquet(path).drop("row").with_columns(pl.col("genres").list.join(" "))
                rows.select("label", pl.exclude("label")).write_csv(folder / f"{path.stem}.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    benchmark = load_benchmark("ctr/ml-100k")
    prepared = benchmark.protocol.prepare(load_card(benchmark.dataset))
    if arguments.export:
        write_rows(prepared, arguments.export)
        return
    development = Development.of(prepared)
    task = CTRTask(benchmark, development, torch.device("cpu"))
    fields, train = task.fields, task.data.all_rows()
    held = CTRTask(benchmark, replace(development, train=development.valid), torch.device("cpu")).data.all_rows()
    print(f"{'model':8} {'what':10} {'recbench':>9} {'bare':>9} {'ratio':>6}   CPU seconds")
    for kind, model in {"deepfm": DeepFM, "autoint": AutoInt, "dcnv2": DCNv2}.items():
        sizes = {"embedding_dim": DIM, "hidden": HIDDEN[kind], "dropout": DROPOUT[kind]}
        sizes |= {"batch_size": BATCH, "embedding_l2": 0.0}
        if kind == "autoint":
            sizes |= {"num_layers": LAYERS, "num_heads": HEADS, "head_dim": WIDTH // HEADS, "identity_residual": True}
        elif kind == "dcnv2":
            sizes["num_layers"] = LAYERS
        sides = ours(model(model.Config(**sizes), fields), task, development.valid), bare(kind, fields, train, held)
        for what, times, works in zip(("epoch", "evaluation"), (1, EVALUATIONS), zip(*sides, strict=True), strict=True):
            mine, floor = cpu_seconds(list(works), REPEATS, times)
            print(f"{kind:8} {what:10} {mine:9.4f} {floor:9.4f} {mine / floor:6.2f}", flush=True)


if __name__ == "__main__":
    main()
