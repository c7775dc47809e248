import numpy as np
import pytest
import torch

from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace, ItemTable


@pytest.fixture
def fields():
    """Three single-valued fields and a multi-valued one, 40 ids."""
    sizes = {"user": 12, "genres": 8, "item": 15, "zip": 5}
    starts = zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False)
    return FieldSpace(Field(name, name == "genres", sizes[name], start) for name, start in starts)


@pytest.fixture
def rows(fields):
    """300 random rows with 0 to 3 genres each; some ids are the unseen one."""
    generator = torch.Generator().manual_seed(0)

    def ids(field, n):
        return field.offset + torch.randint(field.size, (n,), generator=generator)

    lengths = torch.randint(4, (300,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    genres = Ragged(ids(fields.multi[0], int(offsets[-1])), offsets)
    labels = torch.randint(2, (300,), generator=generator).float()
    return CTRBatch(torch.stack([ids(field, 300) for field in fields.single], 1), {"genres": genres}, labels)


@pytest.fixture
def frappe():
    """Fields with the number of ids of Frappe_x1: 5,389 in 10 fields, one unseen id each."""
    sizes = [955, 4083, 8, 8, 3, 4, 3, 10, 81, 234]
    return FieldSpace(Field(str(n), False, size, sum(sizes[:n])) for n, size in enumerate(sizes))


def spread_out(model):
    """Give a model weights of size 1 in every table, so that no term of its logit is negligible."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name in ("embedding.weight", "linear.weight", "bias"):
            torch.nn.init.normal_(parameter, generator=generator)
    return model


@pytest.fixture
def make(fields):
    """Make a model in evaluation mode with weights that differ from zero."""

    def make(cls, **values):
        torch.manual_seed(0)
        return spread_out(cls(cls.Config(**values), fields)).eval()

    return make


@pytest.fixture
def check_batch_size(rows):
    """Predictions do not depend on what else is in the batch."""

    def check(model, rows=rows):
        for size in (1, 7, 300):
            parts = torch.cat([model(part) for part in rows.split(size)])
            torch.testing.assert_close(parts, model(rows), rtol=1e-4, atol=1e-4)

    return check


@pytest.fixture
def history_data():
    """Return what makes 200 training rows with histories of 0 to 6 items, a table of items, and up to three labels."""

    def make(n_labels=1):
        generator = torch.Generator().manual_seed(0)
        user, genres, item = Field("user", False, 12, 0), Field("genres", True, 8, 12), Field("item", False, 15, 20)
        price = Field("price", False, 1, 35, dense=True)
        history = Field("history", True, 15, 20, sequence=6, vocabulary="item")

        def ragged(field, lengths):
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            values = field.offset + torch.randint(field.size, (int(offsets[-1]),), generator=generator)
            return Ragged(values, offsets)

        genres_of = ragged(genres, torch.randint(1, 4, (15,), generator=generator) * (torch.arange(15) < 14))
        items = ItemTable(
            item,
            FieldSpace([item, genres]),
            CTRBatch(20 + torch.arange(15)[:, None], {"genres": genres_of}, torch.empty(15, 0)),
            torch.randn(15, 3, generator=generator),
        )
        target = torch.randint(15, (200,), generator=generator)
        seen = ragged(history, torch.randint(7, (200,), generator=generator))
        rows = CTRBatch(
            torch.stack([torch.randint(12, (200,), generator=generator), 20 + target], 1),
            {"genres": genres_of.take(target), "history": seen},
            torch.randint(2, (200, n_labels), generator=generator).float().squeeze(1),
            torch.randn(200, 1, generator=generator),
        )
        names = ("click", "like", "share")[:n_labels]
        return CTRData(FieldSpace([user, genres, item, price, history]), rows, names, items)

    return make


@pytest.fixture
def spread():
    """Put a model in evaluation mode, with weights of size 1 in every table."""

    def spread(model):
        generator = torch.Generator().manual_seed(1)
        for embedding in model.embeddings():
            torch.nn.init.normal_(embedding.weight, generator=generator)
        return model.eval()

    return spread
