"""Compare BPR-MF, NeuMF, Mult-VAE and LightGCN with bare hand-written loops: CPU seconds of one thread.

An epoch of training, and an evaluation of the validation part: all items ranked for every user, training items left
out, five metrics at 10. Sizes of RecBole's defaults: 64 numbers a user and item, 2 layers of LightGCN, Mult-VAE with
600 hidden units and a code of 128, NeuMF with 64 numbers for each part and hidden layers of 128 and 64, its dropout
0.1; batches of 2048, for NeuMF of 1024 interactions with a negative each; fused Adam, one negative, no penalty.

    python scripts/peers/cf_epoch.py                                            # topn/ml-100k, all four
    python scripts/peers/cf_epoch.py --data topn/gowalla --models bprmf lightgcn --batches lightgcn=20 --evaluate bprmf
    python scripts/peers/cf_epoch.py --export FOLDER                            # the same rows, for cf_epoch_recbole.py

``--batches MODEL=N`` times N batches and scales them to the epoch; ``--evaluate`` names the models whose evaluation is
timed: all if not given.
"""

import argparse
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import Work, cpu_seconds
from torch import Tensor, nn
from torch.nn import functional

from recbench.data.cards import load_card
from recbench.data.store import Arrays
from recbench.models.base import Recommender
from recbench.models.procedure import Phase
from recbench.models.registry import load_model
from recbench.tasks.base import Development, load_benchmark
from recbench.tasks.interactions import TopNData
from recbench.tasks.topn import TopNTask
from recbench.training.optimizers import make_optimizer

REPEATS = 3
EVALUATIONS, LONG = 3, 10**8
"""As many evaluations are one measurement, where one has fewer scores than that."""
BATCH, USERS_AT_ONCE, K = 2048, 2048, 10
DIM, LAYERS, HIDDEN, DROPOUT = 64, 2, (128, 64), 0.1
ROW_HIDDEN, CODE, ROW_DROPOUT, BETA = 600, 128, 0.5, 0.2
METRICS = tuple(f"{name}@{K}" for name in ("recall", "mrr", "ndcg", "hit", "precision"))
CONFIGS = {
    "bprmf": {"embedding_dim": DIM, "l2": 0.0, "batch_size": BATCH},
    "neumf": {
        "embedding_dim": DIM,
        "mlp_dim": DIM,
        "hidden": HIDDEN,
        "dropout": DROPOUT,
        "num_negatives": 1,
        "batch_size": BATCH // 2,
    },
    "multvae": {
        "embedding_dim": CODE,
        "hidden": (ROW_HIDDEN,),
        "dropout": ROW_DROPOUT,
        "anneal_cap": BETA,
        "anneal_updates": 0,
        "batch_size": BATCH,
    },
    "lightgcn": {"embedding_dim": DIM, "n_layers": LAYERS, "l2": 0.0, "batch_size": BATCH},
}


class Symmetric(torch.autograd.Function):
    """A product with a symmetric sparse matrix, which is its own transpose."""

    @staticmethod
    def forward(ctx, matrix: Tensor, vectors: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix @ vectors

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.matrix @ gradient


class Vectors(nn.Module):
    """BPR-MF, and LightGCN with a graph: two tables, inner products, the pairwise loss."""

    batch_size = BATCH

    def __init__(self, users: int, items: int, graph: Tensor | None) -> None:
        super().__init__()
        self.users, self.items, self.graph = users, items, graph
        self.user, self.item = nn.Embedding(users, DIM), nn.Embedding(items, DIM)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.01)

    def tables(self) -> tuple[Tensor, Tensor]:
        if self.graph is None:
            return self.user.weight, self.item.weight
        layer = total = torch.cat([self.user.weight, self.item.weight])
        for _ in range(LAYERS):
            layer = Symmetric.apply(self.graph, layer)
            total = total + layer
        user, item = (total / (LAYERS + 1)).split([self.users, self.items])
        return user, item

    def loss(self, user: Tensor, seen: Tensor, unseen: Tensor) -> Tensor:
        users, items = self.tables()
        u, i, j = (
            functional.embedding(user, users),
            functional.embedding(seen, items),
            functional.embedding(unseen, items),
        )
        return functional.softplus((u * j).sum(1) - (u * i).sum(1)).mean()

    def scorer(self) -> Callable[[Tensor], Tensor]:
        users, items = self.tables()
        return lambda user: users[user] @ items.T


class BareNeuMF(nn.Module):
    """NeuMF: logits of pairs, binary cross-entropy."""

    batch_size = BATCH // 2

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.items = items
        self.tables = nn.ModuleList(nn.Embedding(size, DIM) for size in (users, items, users, items))
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.01)
        layers: list[nn.Module] = []
        for width, into in zip((2 * DIM, *HIDDEN), HIDDEN, strict=False):
            layers += [nn.Linear(width, into), nn.ReLU(), nn.Dropout(DROPOUT)]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(DIM + HIDDEN[-1], 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        p, q, left, right = (table(ids) for table, ids in zip(self.tables, (user, item) * 2, strict=True))
        return self.output(torch.cat([p * q, self.hidden(torch.cat([left, right], 1))], 1)).squeeze(1)

    def loss(self, user: Tensor, seen: Tensor, unseen: Tensor) -> Tensor:
        logits = self(user.repeat(2), torch.cat([seen, unseen]))
        labels = torch.ones_like(logits)
        labels[len(user) :] = 0
        return functional.binary_cross_entropy_with_logits(logits, labels)

    def scorer(self) -> Callable[[Tensor], Tensor]:
        every = torch.arange(self.items)

        def score(user: Tensor) -> Tensor:
            # Some tens of users at once: their hidden layers are a few dozen megabytes.
            parts = [self(part.repeat_interleave(self.items), every.repeat(len(part))) for part in user.split(32)]
            return torch.cat(parts).view(len(user), self.items)

        return score


class BareMultVAE(nn.Module):
    """Mult-VAE over dense rows."""

    batch_size = BATCH

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows
        items = rows.shape[1]
        self.encoder = nn.Sequential(nn.Linear(items, ROW_HIDDEN), nn.Tanh(), nn.Linear(ROW_HIDDEN, 2 * CODE))
        self.decoder = nn.Sequential(nn.Linear(CODE, ROW_HIDDEN), nn.Tanh(), nn.Linear(ROW_HIDDEN, items))

    def loss(self, user: Tensor) -> Tensor:
        rows = self.rows[user]
        mean, variance = self.encoder(functional.dropout(functional.normalize(rows), ROW_DROPOUT)).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (0.5 * variance).exp()
        likelihood = (functional.log_softmax(self.decoder(code), 1) * rows).sum(1).mean()
        return 0.5 * BETA * (variance.exp() + mean.square() - 1 - variance).sum(1).mean() - likelihood

    def scorer(self) -> Callable[[Tensor], Tensor]:
        return lambda user: self.decoder(self.encoder(functional.normalize(self.rows[user])).chunk(2, 1)[0])


def bare_model(kind: str, data: TopNData) -> nn.Module:
    users, items = data.n_users, data.n_items
    if kind == "neumf":
        return BareNeuMF(users, items)
    if kind == "multvae":
        rows = torch.zeros(users, items)
        rows[data.users, data.items] = 1
        return BareMultVAE(rows)
    graph = None
    if kind == "lightgcn":
        row, column = torch.cat([data.users, data.items + users]), torch.cat([data.items + users, data.users])
        degree = torch.bincount(row, minlength=users + items).float()
        weight = (degree[row] * degree[column]).rsqrt()
        graph = torch.sparse_coo_tensor(torch.stack([row, column]), weight, (users + items,) * 2).to_sparse_csr()
    return Vectors(users, items, graph)


def bare(kind: str, data: TopNData, held: Arrays, batches: int | None) -> tuple[Work, Work]:
    """Return the hand-written epoch, or so many batches of it, and evaluation."""
    model = bare_model(kind, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    pairs = torch.stack([data.users, data.items], 1)
    keys = data.users * data.n_items + data.items
    rated = data.users.unique()
    held_users, held_items = (torch.from_numpy(held[name].astype(np.int64)) for name in ("users", "items"))
    judged, counts = held_users.unique(return_counts=True)
    held_keys = (held_users * data.n_items + held_items).sort().values
    discounts = 1 / torch.arange(2, K + 2).log2()

    def unseen(users: Tensor) -> Tensor:
        items = torch.randint(data.n_items, users.shape)
        left = torch.arange(len(users))
        while len(left):
            wanted = users[left] * data.n_items + items[left]
            left = left[keys[torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)] == wanted]
            items[left] = torch.randint(data.n_items, left.shape)
        return items

    def columns() -> tuple[Tensor, ...]:
        if kind == "multvae":
            return (rated[torch.randperm(len(rated))],)
        chosen = pairs[torch.randperm(len(pairs))[: batches and batches * model.batch_size]]
        users, items = chosen.unbind(1)
        return users, items, unseen(users)

    def epoch() -> None:
        model.train()
        for batch in zip(*(column.split(model.batch_size) for column in columns()), strict=True):
            optimizer.zero_grad(set_to_none=True)
            model.loss(*batch).backward()
            optimizer.step()

    @torch.no_grad()
    def evaluation() -> list[float]:
        model.eval()
        score, hits = model.scorer(), []
        for users in judged.split(USERS_AT_ONCE):
            scores = score(users)
            seen = data.history.take(users)
            scores[seen.rows(), seen.values] = -torch.inf
            wanted = users[:, None] * data.n_items + scores.topk(K, dim=1).indices
            hits.append(held_keys[torch.searchsorted(held_keys, wanted).clamp_(max=len(held_keys) - 1)] == wanted)
        hit = torch.cat(hits).float()
        found = hit.sum(1)
        first = (hit / torch.arange(1, K + 1)).max(1).values
        gain = (hit * discounts).sum(1) / discounts.cumsum(0)[counts.clamp(max=K) - 1]
        return [float(x.mean()) for x in (found / counts, first, gain, (found > 0).float(), found / K)]

    return epoch, evaluation


def ours(model: Recommender, task: TopNTask, held: Arrays, batches: int | None) -> tuple[Work, Work]:
    """Return the epoch of the model's own phase, or so many batches of it, and the task's evaluation."""
    (stage,) = model.procedure(task.data)
    (phase,) = stage.steps
    assert isinstance(phase, Phase)
    optimizer = make_optimizer(phase)
    generator = torch.Generator().manual_seed(1)

    def epoch() -> None:
        model.train()
        for batch in itertools.islice(phase.batches.epoch(generator), batches):
            optimizer.zero_grad()
            phase.loss(batch).backward()
            optimizer.step()

    @torch.no_grad()
    def evaluation() -> object:
        model.eval()
        return task.evaluate(model, held, metrics=METRICS).metrics

    return epoch, evaluation


def write_rows(development: Development, folder: Path) -> None:
    """Write the training and the validation part as atomic files, named after the folder."""
    folder.mkdir(parents=True)
    for part, rows in {"train": development.train, "valid": development.valid}.items():
        lines = (f"{user}\t{item}" for user, item in zip(rows["users"], rows["items"], strict=True))
        content = "\n".join(["user_id:token\titem_id:token", *lines])
        (folder / f"{folder.name}.{part}.inter").write_text(content + "\n", encoding="utf-8")


def report(kind: str, what: str, seconds: list[float], scale: float = 1.0, batches: int | None = None) -> None:
    mine, floor = (second * scale for second in seconds)
    note = f", scaled from {batches} batches" if batches else ""
    print(f"{kind:8} {what:10} {mine:9.4f} {floor:9.4f} {mine / floor:6.2f}{note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="topn/ml-100k")
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--batches", nargs="+", default=[], metavar="MODEL=N")
    parser.add_argument("--evaluate", nargs="*", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--export", type=Path)
    arguments = parser.parse_args()
    parts = dict(word.split("=") for word in arguments.batches)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    warnings.filterwarnings("ignore", message="Sparse")
    benchmark = load_benchmark(arguments.data)
    development = Development.of(benchmark.protocol.prepare(load_card(benchmark.dataset)))
    if arguments.export:
        write_rows(development, arguments.export)
        return
    task = TopNTask(benchmark, development, torch.device("cpu"))
    data, held = task.data, development.valid
    print(
        f"{arguments.data}: {data.n_users:,} users, {data.n_items:,} items, {len(data.users):,} training interactions"
    )
    print(f"{'model':8} {'what':10} {'recbench':>9} {'bare':>9} {'ratio':>6}   CPU seconds")
    for kind in arguments.models:
        model = load_model(kind)
        config = model.Config(**CONFIGS[kind])
        batches = int(parts[kind]) if kind in parts else None
        scale = -(-len(data.users) // config.batch_size) / batches if batches else 1.0
        sides = ours(model.create(config, data), task, held, batches), bare(kind, data, held, batches)
        epochs, evaluations = (list(works) for works in zip(*sides, strict=True))
        report(kind, "epoch", cpu_seconds(epochs, arguments.repeats), scale, batches)
        if kind in arguments.evaluate:
            times = EVALUATIONS if data.n_users * data.n_items < LONG else 1
            report(kind, "evaluation", cpu_seconds(evaluations, arguments.repeats, times))


if __name__ == "__main__":
    main()
