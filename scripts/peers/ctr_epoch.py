"""Print the CPU seconds of a training epoch of DeepFM and AutoInt on ctr/ml-100k beside a bare hand-written loop.

Sizes of the peer libraries: embedding 10, perceptron 128-128-128 (AutoInt: 3 layers, 2 heads of 8, perceptron 128-128),
batches of 2048, dropout 0.2 in the perceptron. One thread, fused Adam on both sides, median of five.

    python scripts/peers/ctr_epoch.py
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.data.cards import load_card
from recbench.models.base import CTRModel
from recbench.models.ctr.autoint import AutoInt
from recbench.models.ctr.deepfm import DeepFM
from recbench.models.procedure import Phase
from recbench.tasks.base import Development, load_benchmark
from recbench.tasks.ctr import CTRBatch, CTRTask

REPEATS = 5
BATCH = 2048
DIM, WIDTH, HEADS, LAYERS = 10, 16, 2, 3
HIDDEN = {"deepfm": (128, 128, 128), "autoint": (128, 128)}


class Bare(nn.Module):
    """Both models written out, over an id matrix and a row-normalised genre matrix."""

    def __init__(self, kind: str, n_ids: int, n_fields: int, genres: slice) -> None:
        super().__init__()
        self.kind = kind
        self.genres = genres
        self.table = nn.Embedding(n_ids, DIM)
        self.first = nn.Embedding(n_ids, 1)
        widths = [n_fields * DIM, *HIDDEN[kind]]
        units = [(nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.2)) for a, b in pairwise(widths)]
        hidden = [layer for unit in units for layer in unit]
        self.mlp = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))
        inputs = [DIM] + [WIDTH] * (LAYERS - 1)
        self.layers = nn.ModuleList(nn.Linear(width, 4 * WIDTH, bias=False) for width in inputs)
        self.output = nn.Linear(n_fields * WIDTH, 1)

    def forward(self, ids: Tensor, genres: Tensor) -> Tensor:
        e = torch.cat([self.table(ids), (genres @ self.table.weight[self.genres]).unsqueeze(1)], 1)
        y = self.mlp(e.flatten(1)).squeeze(1)
        if self.kind == "deepfm":
            first = self.first(ids).sum((1, 2)) + (genres @ self.first.weight[self.genres]).squeeze(1)
            return y + first + 0.5 * (e.sum(1).pow(2) - e.pow(2).sum(1)).sum(1)
        for layer in self.layers:
            q, k, v, r = layer(e).chunk(4, 2)
            heads = [x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q, k, v)]
            e = functional.relu(
                functional.scaled_dot_product_attention(*heads, scale=1.0).transpose(1, 2).flatten(2) + r
            )
        return y + self.output(e.flatten(1)).squeeze(1)


def bare_epoch(kind: str, rows: CTRBatch, task: CTRTask) -> Callable[[], None]:
    """Return the hand-written epoch over the rows."""
    (genres,) = task.fields.multi
    ragged = rows.multi[genres.name]
    shares = torch.zeros(len(rows), genres.size)
    owner = ragged.rows()
    shares[owner, ragged.values - genres.offset] = 1 / ragged.lengths[owner].float()
    model = Bare(kind, task.fields.n_ids, len(task.fields), slice(genres.offset, genres.offset + genres.size))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def epoch() -> None:
        for block in torch.randperm(len(rows)).split(BATCH):
            loss = functional.binary_cross_entropy_with_logits(
                model(rows.ids[block], shares[block]), rows.labels[block]
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def our_epoch(model: CTRModel, task: CTRTask) -> Callable[[], None]:
    """Return the epoch of the model's own phase."""
    (stage,) = model.procedure(task.data)
    (phase,) = stage.steps
    assert isinstance(phase, Phase)
    optimizer = torch.optim.Adam(phase.parameters, lr=phase.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(1)

    def epoch() -> None:
        for batch in phase.batches.epoch(generator):
            optimizer.zero_grad(set_to_none=True)
            phase.loss(batch).backward()
            optimizer.step()

    return epoch


def cpu_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    benchmark = load_benchmark("ctr/ml-100k")
    task = CTRTask(
        benchmark, Development.of(benchmark.protocol.prepare(load_card(benchmark.dataset))), torch.device("cpu")
    )
    (rows,) = task.data.rows(10**9).epoch(torch.Generator().manual_seed(1))
    common = {"embedding_dim": DIM, "dropout": 0.2, "batch_size": BATCH}
    attention = {"num_layers": LAYERS, "num_heads": HEADS, "head_dim": WIDTH // HEADS}
    models: dict[str, CTRModel] = {
        "deepfm": DeepFM(DeepFM.Config(hidden=HIDDEN["deepfm"], **common), task.fields),
        "autoint": AutoInt(AutoInt.Config(hidden=HIDDEN["autoint"], **attention, **common), task.fields),
    }
    print(f"{'model':8} {'recbench':>9} {'bare':>9} {'ratio':>6}   CPU seconds an epoch of {len(rows)} rows")
    for name, model in models.items():
        epochs = our_epoch(model, task), bare_epoch(name, rows, task)
        for epoch in epochs:
            epoch()  # warm up
        # In turn, so that both sides meet the same load of the machine.
        times = [[cpu_seconds(epoch) for epoch in epochs] for _ in range(REPEATS)]
        ours, bare = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:8} {ours:9.3f} {bare:9.3f} {ours / bare:6.2f}")


if __name__ == "__main__":
    main()
