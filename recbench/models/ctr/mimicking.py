"""Atomic Feature Mimicking: a trained backbone made small by low-rank layers with nearly the same outputs.

Source      Yu, Fu, Ding, Zhou, Wu: Unified Low-rank Compression Framework for Click-through Rate Prediction.
            KDD 2024, arXiv:2405.18146.
Stages      the backbone's own; ``compress``: one pass over the training rows, then the replacements; ``finetune``: as
            in the backbone's first stage, with a learning rate and a number of epochs of its own
Linear      y = W x + b, outputs with mean mu and principal axes U_r, becomes W_2 act(W_1 x + b_1) + b_2 with
            W_1 = U_r^T W, b_1 = U_r^T b, W_2 = U_r, b_2 = (I - U_r U_r^T) mu; act is the identity or a ReLU
Embedding   the table T of a vocabulary becomes codes (T - mu) U_r, reconstructed as U_r code + mu, where mu and U_r are
            of the vectors that training rows look up
Fusion      a linear layer that reads the flattened embeddings and nothing else reads the codes instead; where no other
            part of the backbone reads the embeddings, the reconstruction is left out
Loss        the backbone's; an L2 penalty on tables is on the codes
Departures  the authors' training code is not public: fine-tuning is ours; no ReLU by default; ranks may be given by a
            share of variance; no layer is replaced by one that is not smaller; multi-valued and dense fields have no
            mean taken off, as a row may have no value; signs of axes let the outputs' means pass through the ReLU
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from recbench.errors import UsageError
from recbench.models.base import CTRModel, Positive, PositiveFloat, parameter_count, tunable
from recbench.models.explanation import Explanation, Table
from recbench.models.layers.backbone import BackboneConfig, BackboneModel
from recbench.models.layers.embedding import FieldEmbedding, table
from recbench.models.layers.lowrank import (
    LowRankEmbedding,
    Moments,
    fuse,
    low_rank_linear,
    mimic_embedding,
    mimic_linear,
)
from recbench.models.layers.mlp import MLP
from recbench.models.procedure import Phase, Stage, Sweep
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace

TRACED_ROWS = 64
ROWS_AT_ONCE = 4096
TIMED_ROWS = 10_000
TIMES = 7


def _whole_from_one_on(rank: float) -> float:
    if rank >= 1 and rank != int(rank):
        raise ValueError("expected a whole number, the rank, or less than 1, a share of variance")
    return rank


Rank = Annotated[PositiveFloat, AfterValidator(_whole_from_one_on)]


class Mimicking(BackboneModel):
    """A backbone compressed to low rank after its training, then fine-tuned."""

    class Config(BackboneConfig):
        """Hyper-parameters; a rank below 1 is the share of the outputs' variance that is kept."""

        embedding_rank: Rank = tunable(0.95, choices=(2, 4, 8, 0.8, 0.9, 0.95, 0.99))
        """Of the tables; at least their width: they stay whole."""
        linear_rank: Rank = tunable(0.95, choices=(16, 32, 64, 0.8, 0.9, 0.95, 0.99))
        """Of the linear layers; at least their width: they stay whole."""
        layers: Literal["mlp", "all"] = "mlp"
        """Linear layers of perceptrons but the first of each, or all that do not read the flattened embeddings."""
        activated: bool = False
        """Put a ReLU between the two layers that replace one, as the authors do: it needs long fine-tuning."""
        finetune_epochs: Positive = 5
        """All are run; the best on validation is kept."""
        finetune_learning_rate: PositiveFloat = tunable(1e-4, low=1e-5, high=1e-2, log=True)

    def __init__(self, config: Config, fields: FieldSpace, backbone: CTRModel, wiring: Wiring) -> None:
        super().__init__(config, fields, backbone)
        self.wiring = wiring
        self.register_load_state_dict_pre_hook(_take_shape)  # type: ignore[no-untyped-call]

    @classmethod
    def create(cls, config: Any, data: CTRData) -> Mimicking:
        """Make the model and its backbone, and see on a few rows how the backbone's layers are wired."""
        rows = data.all_rows()
        backbone = config.make_backbone(data)
        if isinstance(backbone, BackboneModel):
            raise UsageError(f"backbone: expected a model that is around no other, found '{config.backbone}'")
        # Where the rows are, so that a few can be passed through.
        backbone.to(rows.ids.device)
        sample = rows.take(torch.arange(min(TRACED_ROWS, len(rows)), device=rows.ids.device))
        return cls(config, data.fields, backbone, trace(backbone, sample, config.layers))

    def procedure(self, data: CTRData) -> Iterator[Stage]:
        """Train the backbone; compress it; fine-tune it."""
        config = self.config
        yield from self.backbone.procedure(data)
        yield Stage("compress", [Sweep("compress", lambda: self.compress(data))], patience=1)
        stage = next(iter(self.backbone.procedure(data)))
        steps = [
            replace(step, learning_rate=config.finetune_learning_rate) if isinstance(step, Phase) else step
            for step in stage.steps
        ]
        epochs = config.finetune_epochs
        yield replace(stage, name="finetune", steps=steps, epochs=epochs, patience=epochs)

    def compress(self, data: CTRData) -> None:
        """Replace tables and layers by low-rank ones that mimic them on the training rows."""
        config, modules = self.config, dict(self.backbone.named_modules())
        counts, outputs = self._observe(data)
        for name, moments in outputs.items():
            thin = mimic_linear(modules[name], moments, config.linear_rank, activated=config.activated)
            if thin is not None:
                _replace(self.backbone, modules[name], thin)
        for name, count in counts.items():
            embedding = mimic_embedding(modules[name], count, config.embedding_rank)
            if embedding is not None:
                self.use_table(name, embedding)

    def use_table(self, name: str, embedding: LowRankEmbedding) -> None:
        """Put a low-rank table in the place of the table of that name, and fuse it with the layers that allow it."""
        modules, alone = dict(self.backbone.named_modules()), name in self.wiring.alone
        for reader, read in self.wiring.fused.items():
            if read == name:
                _replace(self.backbone, modules[reader], fuse(modules[reader], embedding, alone=alone))
        _replace(self.backbone, modules[name], embedding.codes if alone else embedding)

    def _observe(self, data: CTRData) -> tuple[dict[str, Tensor], dict[str, Moments]]:
        """Pass the training rows through; return how often each id is looked up and the moments of outputs."""
        modules: dict[str, Any] = dict(self.backbone.named_modules())
        counts = {
            name: modules[name].weight.new_zeros(len(modules[name].weight), dtype=torch.float64)
            for name in self.wiring.tables
        }
        outputs = {name: Moments() for name in self.wiring.linears}
        self.eval()
        with ExitStack() as hooks:
            for name, count in counts.items():
                hooks.enter_context(modules[name].register_forward_pre_hook(partial(_count, count), with_kwargs=True))
            for name, moments in outputs.items():
                hooks.enter_context(modules[name].register_forward_hook(partial(_add, moments)))
            for batch in data.all_rows().split(ROWS_AT_ONCE):
                self.backbone(batch)
        return counts, outputs

    @torch.no_grad()
    def explain(self, data: CTRData) -> Explanation:
        """Tell the sizes and the CPU seconds of inference of the backbone as it was and as it is, and what changed."""
        with torch.random.fork_rng():
            whole = self.config.make_backbone(data)
        rows = data.all_rows()
        device = rows.ids.device
        rows = rows.take(torch.arange(min(TIMED_ROWS, len(rows)), device=device))
        seconds = _inference_seconds([whole.to(device), self.backbone], rows)
        numbers = [parameter_count(model) for model in (whole, self.backbone)]
        before, after = dict(whole.named_modules()), dict(self.backbone.named_modules())
        parts = [*self.wiring.tables, *self.wiring.fused, *self.wiring.linears]
        changed = [part for part in parts if parameter_count(before[part]) != parameter_count(after[part])]
        columns: dict[str, list[str] | list[int]] = {
            "part": changed,
            "before": [_shape(before[part]) for part in changed],
            "after": [_shape(after[part]) for part in changed],
            "parameters": [parameter_count(after[part]) for part in changed],
        }
        figures = {
            "parameters before": numbers[0],
            "parameters after": numbers[1],
            "compression factor": numbers[0] / numbers[1],
            "table parameters before": sum(parameter_count(before[name]) for name in self.wiring.tables),
            "table parameters after": sum(parameter_count(after[name]) for name in self.wiring.tables),
            f"CPU seconds for {len(rows):,} rows before": seconds[0],
            f"CPU seconds for {len(rows):,} rows after": seconds[1],
            "speed-up": seconds[0] / seconds[1],
        }
        return Explanation(figures, [Table("compressed parts", columns)])


@dataclass(frozen=True)
class Wiring:
    """What of a backbone can be compressed, by names of its modules."""

    tables: Sequence[str]
    """Tables of vectors that are looked up."""
    linears: Sequence[str]
    """Linear layers that may become two."""
    fused: Mapping[str, str]
    """Linear layer -> the table whose flattened vectors are all it reads."""
    alone: Set[str]
    """Tables that nothing but such layers reads."""


def trace(backbone: CTRModel, rows: CTRBatch, layers: Literal["mlp", "all"]) -> Wiring:
    """Pass a few rows through a backbone and see which of its modules read what."""
    modules = dict(backbone.named_modules())
    vectors: dict[str, list[Tensor]] = {}
    whole: set[str] = set()
    reads: dict[str, list[str | None]] = {}

    def look_up(table: str, module: FieldEmbedding, args: Any, output: Tensor) -> Tensor:
        if output.shape[1] == len(module.fields):
            whole.add(table)  # the layers that take its place read the codes of all fields
        vectors.setdefault(table, []).append(output.detach().requires_grad_())
        return vectors[table][-1]

    def read(layer: str, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        flat = (table for table in whole for each in vectors[table] if torch.equal(each.flatten(1), args[0]))
        reads.setdefault(layer, []).append(table := next(flat, None))
        # Cut off there: what still has a gradient is read by something else.
        return (args[0] if table is None else args[0].detach(),)

    training = backbone.training
    backbone.eval()
    for module in modules.values():
        if isinstance(module, nn.Dropout):
            module.train()  # so that what it gives is seen to differ from what it reads
    with ExitStack() as hooks, torch.enable_grad(), torch.random.fork_rng():
        for name, module in modules.items():
            if isinstance(module, FieldEmbedding) and module.weight.shape[1] > 1:
                hooks.enter_context(module.register_forward_hook(partial(look_up, name)))
            elif type(module) is nn.Linear:
                hooks.enter_context(module.register_forward_pre_hook(partial(read, name)))
        total = backbone(rows).sum()
    backbone.train(training)

    once = {name for name, found in vectors.items() if len(found) == 1}
    fused = {layer: tables[0] for layer, tables in reads.items() if len(tables) == 1 and tables[0] in once}
    alone = set()
    for name in set(fused.values()):
        ways = [vectors[name][0], table(modules[name])]
        if all(gradient is None for gradient in torch.autograd.grad(total, ways, allow_unused=True, retain_graph=True)):
            alone.add(name)
    linears = [layer for layer, tables in reads.items() if not any(tables)]
    if layers == "mlp":
        perceptrons = [(name, module) for name, module in modules.items() if isinstance(module, MLP)]
        hidden = {
            f"{name}.{place}"
            for name, module in perceptrons
            for place in [place for place, child in module.named_children() if isinstance(child, nn.Linear)][1:]
        }
        linears = [layer for layer in linears if layer in hidden]
    return Wiring(list(vectors), linears, fused, alone)


def _count(counts: Tensor, module: FieldEmbedding, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Count the look-ups of a batch; that of a dense field counts as the square of its number."""
    batch, fields = (*args, *kwargs.values(), None)[:2]
    fields = module.fields if fields is None else fields
    ids = [batch.ids.flatten(), *(batch.multi[field.name].values for field in fields.multi)]
    for each in ids:
        counts.index_add_(0, each, counts.new_ones(()).expand(len(each)))
    for place, field in enumerate(fields.dense):
        counts[field.offset] += batch.dense[:, place].square().sum()


def _add(moments: Moments, module: nn.Module, args: Any, output: Tensor) -> None:
    moments.add(output.flatten(0, -2))


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module where the old one is, everywhere below ``root``."""
    new.train(old.training)
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def _take_shape(model: Mimicking, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Compress a model as the state that is being loaded was, so that it fits."""
    modules = dict(model.backbone.named_modules())
    for name in model.wiring.linears:
        first, layer = state.get(f"{prefix}backbone.{name}.0.weight"), modules[name]
        if first is not None and isinstance(layer, nn.Linear):
            thin = low_rank_linear(layer.in_features, len(first), layer.out_features, model.config.activated)
            _replace(model.backbone, layer, thin.to(layer.weight))
    for name in model.wiring.tables:
        inner = "weight" if name in model.wiring.alone else "codes.weight"
        codes, embedding = state.get(f"{prefix}backbone.{name}.{inner}"), modules[name]
        if codes is None or not isinstance(embedding, FieldEmbedding) or codes.shape == embedding.weight.shape:
            continue
        thin_table = LowRankEmbedding(embedding.fields, embedding.weight.shape[1], codes.shape[1])
        model.use_table(name, thin_table.to(embedding.weight))


def _inference_seconds(models: Sequence[nn.Module], rows: CTRBatch) -> list[float]:
    """Return the median CPU seconds that each model takes to score the rows, measured in turn."""
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(TIMES):
        for model, taken in zip(models, seconds, strict=True):
            model.eval()
            began = time.process_time()
            float(model(rows).sum())  # a number: nothing is left to be computed
            taken.append(time.process_time() - began)
    return [statistics.median(taken) for taken in seconds]


def _shape(module: Any) -> str:
    if isinstance(module, nn.Sequential):
        first: Any = module[0]
        last: Any = module[-1]
        return f"{first.in_features} x {first.out_features} x {last.out_features}"
    if isinstance(module, nn.Linear):
        return f"{module.in_features} x {module.out_features}"
    rows, width = (module.codes if isinstance(module, LowRankEmbedding) else module).weight.shape
    return f"{rows} x {width}"
