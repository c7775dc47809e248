"""The protocol of knowledge-graph completion: published train, valid and test facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from recbench.data.protocols.base import PART_NAMES, Protocol, Published, index
from recbench.data.source import Source
from recbench.data.store import Writer
from recbench.errors import RecbenchError


class Facts(Protocol):
    """Facts in published parts.

    Arrays: shared ``entity_ids`` (E,), ``relation_ids`` (R,); each part ``heads``, ``relations``, ``tails`` (n,) in
    the order of the file. Entities that only validation or test name are indexed too: they are part of the problem, and
    ``unseen_entities`` in the description counts them.
    """

    kind: Literal["facts"] = "facts"
    split: Published = Published()

    def tables(self, source: Source) -> Collection[str]:
        """Return the tables of the parts."""
        return list(self.split.tables)

    def build(self, source: Source, out: Writer) -> Mapping[str, Any]:
        """Index entities and relations over all parts."""
        import polars as pl

        if isinstance(self.split.valid, float):
            raise RecbenchError(f"protocol {self.name}: facts need a published validation table, found a share")
        frames = [source.table(name) for name in self.split.tables]
        parts = np.repeat(np.array(list(self.split.tables.values()), dtype=np.int8), [len(frame) for frame in frames])
        facts = pl.concat(frames)
        entity_ids, ends = index(pl.concat([facts["head"], facts["tail"]]))
        relation_ids, relations = index(facts["relation"])
        heads, tails = np.split(ends, 2)
        repeated = facts.with_columns(_part=parts).group_by("head", "relation", "tail").agg(pl.col("_part").n_unique())
        if leaked := int((repeated["_part"] > 1).sum()):
            raise RecbenchError(f"protocol {self.name}: the split leaks: {leaked} facts are in more than one part")
        out.write("shared", "entity_ids", entity_ids)
        out.write("shared", "relation_ids", relation_ids)
        for part, name in PART_NAMES.items():
            for column, values in {"heads": heads, "relations": relations, "tails": tails}.items():
                out.write(name, column, values[parts == part])
        train = np.unique(np.concatenate([heads[parts == 0], tails[parts == 0]]))
        return {
            "n_entities": len(entity_ids),
            "n_relations": len(relation_ids),
            "unseen_entities": len(entity_ids) - len(train),
        }
