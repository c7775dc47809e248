import numpy as np
import pytest
import torch

from recbench.tasks.kg import TripleBatches, Triples

NAME = "kg/ml-100k"


def small_graph(n_nodes=25, n_relations=3, density=0.3, seed=0):
    rng = np.random.default_rng(seed)
    known = rng.random((n_nodes, n_relations, n_nodes)) < density
    known[4, 1] = True
    known[4, 1, 11] = False  # one tail is left
    return known, Triples(*(torch.tensor(column) for column in np.nonzero(known)))


def test_an_epoch_has_every_fact_once_and_no_false_negative():
    known, graph = small_graph()
    batches = list(TripleBatches(graph, len(known), 64).epoch(torch.Generator().manual_seed(0)))
    columns = [torch.cat([getattr(b.facts, name) for b in batches]) for name in ("heads", "relations", "tails")]
    facts = torch.stack(columns, 1)
    assert sorted(map(tuple, facts.tolist())) == sorted(map(tuple, np.argwhere(known).tolist()))
    heads, relations, _ = (column.numpy() for column in columns)
    negatives = torch.cat([batch.negative_tails for batch in batches]).numpy()
    assert not known[heads, relations, negatives].any()
    assert set(negatives[(heads == 4) & (relations == 1)]) == {11}
    assert sum(len(batch) for batch in batches) == len(graph)


def test_corrupted_tails_are_uniform_over_the_possible_ones():
    from scipy import stats

    known, graph = small_graph()
    source, generator = TripleBatches(graph, len(known), 10**6), torch.Generator().manual_seed(1)
    counts = np.zeros_like(known, dtype=np.int64)
    for _ in range(300):
        (batch,) = source.epoch(generator)
        np.add.at(counts, (batch.facts.heads, batch.facts.relations, batch.negative_tails), 1)
    assert not counts[known].any()
    rows = [counts[h, r][~known[h, r]] for h, r in np.ndindex(known.shape[:2])]
    values = [stats.chisquare(row).pvalue for row in rows if len(row) > 1 and row.sum()]
    assert min(values) > 1e-5


def test_the_first_entities_are_the_items(task_of, parts_of):
    data, shared = task_of(NAME).data, parts_of(NAME, "shared")
    assert list(shared["entity_ids"][: data.n_items]) == [f"item:{raw}" for raw in shared["item_ids"]]
    assert data.n_entities == len(shared["entity_ids"]) > data.n_items
    for nodes in (data.graph.heads, data.graph.tails):
        assert 0 <= int(nodes.min()) <= int(nodes.max()) < data.n_entities
    assert int(data.graph.relations.max()) == data.n_relations - 1
    linked = torch.cat([data.graph.heads, data.graph.tails])
    assert (linked < data.n_items).any()


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_has_the_interactions_of_the_benchmark_without_a_graph(parts_of, part):
    with_graph, without = parts_of(NAME, part), parts_of("topn/ml-100k", part)
    for name in ("users", "items"):
        np.testing.assert_array_equal(with_graph[name], without[name])
