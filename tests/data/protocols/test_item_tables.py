"""What is told of each item: attributes with the ids of rows, given vectors, nothing of what training has not."""

import numpy as np
import polars as pl
import pytest
from made_logs import encode
from pydantic import ValidationError

from recbench.data.cards import load_card
from recbench.data.protocols.labelled import Items
from recbench.errors import RecbenchError
from recbench.tasks.base import load_benchmark

NAME = "ctr/ml-100k-tasks"
LOG = pl.DataFrame({"item": list("bacbabacdd"), "label": [1.0, 0.0] * 5})
TABLE = pl.DataFrame(
    {
        "item": ["c", "a", "x", "d"],
        "tags": [["p", "q"], ["q"], ["r"], ["s"]],
        "year": ["1990", "1991", "1992", "1993"],
        "price": [3.0, None, 7.0, 9.0],
        "size": [1.5, 2.5, 3.5, None],
    }
)
FRAMES = {"train": LOG[:6], "valid": LOG[6:8], "test": LOG[8:], "items": TABLE}
FIELDS = (
    {"name": "item"},
    {"name": "tags", "multi": True},
    {"name": "year"},
    {"name": "price", "transform": "none"},
)
ITEM = {"field": "item", "attributes": ["year", "tags", "price"], "vectors": ["size", "tags"]}


def test_by_hand():
    """Training has a, b and c; b is not in the table, and has the attributes that its rows have."""
    parts, fields, texts = encode(FRAMES, *FIELDS, item=ITEM)
    shared, offset = parts["shared"], {field["name"]: field["offset"] for field in fields}
    assert texts["item"] == [None, "a", "b", "c"]
    assert texts["year"] == [None, "", "1990", "1991"]
    assert texts["tags"] == [None, "p", "q"]
    assert shared["items_ids"].tolist() == [[0, offset["year"] + year] for year in (0,)] + [
        [1, offset["year"] + 3],
        [2, offset["year"] + 1],
        [3, offset["year"] + 2],
    ]
    assert shared["items_tags_offsets"].tolist() == [0, 0, 1, 1, 3]
    assert (shared["items_tags_values"] - offset["tags"]).tolist() == [2, 1, 2]
    assert shared["items_dense"].ravel().tolist() == [0, 0, 0, 3]
    assert shared["items_vectors"].tolist() == [[0, 0, 0], [2.5, 0, 1], [0, 0, 0], [1.5, 1, 1]]
    assert shared["items_vectors"].dtype == np.float32


def test_the_rows_are_the_same_with_and_without():
    plain, fields, texts = encode(FRAMES, *FIELDS)
    told, same_fields, same_texts = encode(FRAMES, *FIELDS, item=ITEM)
    assert (same_fields, same_texts) == (fields, texts)
    for part in ("train", "valid", "test"):
        assert {name: values.tolist() for name, values in told[part].items()} == {
            name: values.tolist() for name, values in plain[part].items()
        }
    assert not plain["shared"]


def test_an_item_alone():
    parts, _, _ = encode(FRAMES, *FIELDS, item={"field": "item"})
    assert {name: values.tolist() for name, values in parts["shared"].items()} == {"items_ids": [[0], [1], [2], [3]]}


def test_other_transforms_too():
    fields = {"name": "item"}, {"name": "price", "transform": "quantile", "bins": 2}
    parts, _, _ = encode(FRAMES, *fields, item={"field": "item", "attributes": ["price"]})
    rows = {int(item): int(price) for item, price in parts["train"]["ids"]}
    assert {int(item): int(price) for item, price in parts["shared"]["items_ids"][1:]} == rows


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"field": "film"}, "field 'film' is no field of tokens made from the column item"),
        ({"field": "year"}, "field 'year' is no field of tokens made from the column item"),
        ({"field": "start"}, "field 'start' is no field of tokens"),
        ({"field": "item", "attributes": ["genre"]}, "attribute 'genre' is no other field of the item; fields are"),
        ({"field": "item", "attributes": ["item"]}, "attribute 'item' is no other field"),
        ({"field": "item", "attributes": ["year", "year"]}, "an attribute is named twice"),
    ],
)
def test_the_item_and_its_attributes_are_fields(item, message):
    with pytest.raises(ValidationError, match=message):
        encode(FRAMES, *FIELDS, {"name": "start", "column": "item", "prefix": 1}, item=item)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"attributes": ["mood"]},
            "attribute 'mood' needs the column 'label' of the table items, which has item, tags",
        ),
        ({"vectors": ["weight"]}, "vectors: 'weight' needs the column 'weight' of the table items"),
        ({"vectors": ["year"]}, "the column 'year' is of type String, expected numbers or lists of tokens"),
    ],
)
def test_columns_must_be_in_the_table_of_items(item, message):
    with pytest.raises(RecbenchError, match=message):
        encode(
            FRAMES, *FIELDS, {"name": "mood", "column": "label", "transform": "none"}, item={"field": "item", **item}
        )


def test_a_dataset_without_items():
    told = load_benchmark("ctr/frappe").protocol.model_copy(update={"item": Items(field="item")})
    with pytest.raises(RecbenchError, match="dataset frappe has no table 'items', which the protocol needs"):
        told.prepare(load_card("frappe"))


def test_real_items_have_the_attributes_of_their_rows(task_of):
    task = task_of(NAME)
    items, rows = task.data.items, task.data.all_rows()
    assert [field.name for field in items.fields] == ["item", "genres", "release_year"]
    assert len(items.rows) == items.item.size == len(items.vectors)
    assert torch_equal(items.rows.ids[:, 0] - items.item.offset, np.arange(items.item.size))
    columns = [field.name for field in task.fields.single]
    item, year = (rows.ids[:, columns.index(name)] for name in ("item", "release_year"))
    places = item - items.item.offset
    assert torch_equal(items.rows.ids[places, 1], year)
    genres = items.rows.multi["genres"].take(places)
    assert torch_equal(genres.values, rows.multi["genres"].values)
    assert torch_equal(genres.offsets, rows.multi["genres"].offsets)
    # The vectors are the genres as flags: of 18 of them, as no film of training is of an unknown one.
    assert torch_equal(items.vectors.sum(1), items.rows.multi["genres"].lengths)
    assert torch_equal(items.vectors[0], np.zeros(items.vectors.shape[1]))


def torch_equal(found, expected):
    return np.array_equal(np.asarray(found), np.asarray(expected))
