"""Every data set of the mirror: its tables, its card's statistics, and the figures published with the mirror."""

from pathlib import Path

import polars as pl
import pytest

from recbench import resources
from recbench.data.cards import card_names, load_card
from recbench.data.source import Source

MIRROR = Path(resources.mirror() or "none")
FOLDERS = sorted(path.name for path in MIRROR.iterdir() if path.is_dir()) if MIRROR.is_dir() else []

pytestmark = pytest.mark.skipif(not FOLDERS, reason="RECBENCH_MIRROR names no folder with data sets")


@pytest.fixture(autouse=True)
def _mirror(monkeypatch):
    monkeypatch.setenv("RECBENCH_MIRROR", str(MIRROR))


def read(dataset: str, *tables: str) -> pl.DataFrame:
    """Return tables of a data set, one below the other; skip the test where the mirror lacks the data set."""
    if dataset not in FOLDERS:
        pytest.skip(f"the mirror has no {dataset}")
    source = Source(load_card(dataset))
    return pl.concat([source.table(table) for table in tables])


def entities(triples: pl.DataFrame) -> int:
    return pl.concat([triples["head"], triples["tail"]]).n_unique()


def among(rows: pl.DataFrame, others: pl.DataFrame, *columns: str) -> bool:
    """Say whether the rows, as far as these columns go, are all among the others."""
    return rows.join(others, on=columns, how="anti").is_empty()


@pytest.mark.parametrize("name", FOLDERS)
def test_the_card_names_every_file(name):
    assert name in card_names()
    folder = MIRROR / name
    files = {path.relative_to(folder).as_posix().removesuffix(".xz") for path in folder.rglob("*") if path.is_file()}
    assert files <= set(load_card(name).files)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_table_has_the_statistics_of_the_card(name):
    card = load_card(name)
    source = Source(card)
    found = {}
    for table in card.tables:
        frame = source.table(table)
        found[table] = frame.height
        assert set(frame.columns) == set(source.columns(table))
        for column in frame.columns:
            if (key := f"{table}.{column}") in card.statistics:
                values = frame[column]
                found[key] = (values.explode() if isinstance(values.dtype, pl.List) else values).n_unique()
    assert card.verified == "counted"
    assert found == card.statistics


def test_coat():
    for table, each in (("interactions", 24), ("random", 16)):
        ratings = read("coat", table)
        assert ratings["user"].n_unique() == 290
        assert ratings["item"].n_unique() == 300
        assert ratings["user"].value_counts()["count"].unique().to_list() == [each]
        assert set(ratings["rating"]) == {1, 2, 3, 4, 5}
    assert read("coat", "user_features")["feature"].n_unique() == 14
    assert read("coat", "item_features")["feature"].n_unique() == 33


def test_frappe():
    held_out = read("frappe", "valid", "test")
    assert held_out.height == 57_722 + 28_860
    assert round((held_out["label"] > 0).mean(), 3) == 0.330
    rows = pl.concat([read("frappe", "train"), held_out])
    fields = [rows[name] for name in rows.columns if name != "label"]
    assert len(fields) == 10
    assert pl.concat(fields).n_unique() == 5_382
    assert sum(values.n_unique() for values in fields) == 5_382, "no feature is of two fields"
    log = read("frappe", "interactions")
    assert (log.height, log["user"].n_unique(), log["item"].n_unique()) == (96_203, 957, 4_082)


def test_frappe_train_is_what_the_raw_log_leaves():
    log = read("frappe", "interactions").select("user", (pl.col("item").cast(int) + 957).cast(str).alias("item"))
    train = read("frappe", "train").filter(pl.col("label") > 0).select("user", "item")
    held_out = read("frappe", "valid", "test").filter(pl.col("label") > 0).select("user", "item")
    assert train.height == 67_604
    assert held_out.height == 28_599
    assert pl.concat([train, held_out]).sort("user", "item").equals(log.sort("user", "item"))
    assert read("frappe", "train").height == 67_604 + 134_423 == 202_027


def test_frappe_cfm():
    train, test = read("frappe-cfm", "train"), read("frappe-cfm", "test")
    assert (train.height, test.height) == (92_808, 3_387)
    both = pl.concat([train, test])
    assert both["user_features"].list.first().n_unique() == 957
    assert both["user_features"].list.len().unique().to_list() == [8]
    assert both["item_features"].list.len().unique().to_list() == [2]


def test_ml_1m():
    ratings = read("ml-1m", "interactions")
    assert (ratings.height, ratings["user"].n_unique(), ratings["item"].n_unique()) == (1_000_209, 6_040, 3_706)
    counts = ratings["rating"].value_counts().sort("rating")["count"].to_list()
    assert counts == [56_174, 107_557, 261_197, 348_971, 226_310]
    assert not ratings.select("user", "item").is_duplicated().any(), "the folds are disjoint"
    items = read("ml-1m", "items")
    assert items.height == 3_883
    assert items["title"].str.contains("Misérables").any(), "the file is in Latin-1"
    assert among(ratings, items, "item")


def test_ml_1m_sasrec():
    actions = read("ml-1m-sasrec", "interactions")
    assert (actions.height, actions["user"].n_unique(), actions["item"].n_unique()) == (999_611, 6_040, 3_416)
    assert actions["timestamp"].to_list() == list(range(999_611))
    users, items = read("ml-1m-sasrec", "users"), read("ml-1m-sasrec", "items")
    mapped = actions.join(users, on="user").join(items, on="item")
    original = mapped.select(user="ml_1m_user", item="ml_1m_item")
    assert original.height == 999_611
    assert among(original, read("ml-1m", "interactions"), "user", "item")


def test_ml_1m_ultragcn():
    train, test = read("ml-1m-ultragcn", "train"), read("ml-1m-ultragcn", "test")
    assert (train.height, test.height) == (796_244, 99_455)
    both = pl.concat([train, test])
    assert (both["user"].n_unique(), both["item"].n_unique()) == (6_022, 3_043)
    assert not both.is_duplicated().any()


def test_gowalla_lightgcn():
    train, valid, test = (read("gowalla-lightgcn", part) for part in ("train", "valid", "test"))
    assert (train.height, valid.height, test.height) == (719_081, 91_047, 217_242)
    assert train.height + valid.height == 810_128
    rows = pl.concat([train, valid, test])
    assert (rows.height, rows["user"].n_unique(), rows["item"].n_unique()) == (1_027_370, 29_858, 40_981)
    assert not rows.is_duplicated().any()
    assert among(rows, read("gowalla-lightgcn", "users"), "user")
    assert among(rows, read("gowalla-lightgcn", "items"), "item")


def test_lastfm_hetrec2011():
    counts = read("lastfm-hetrec2011", "interactions")
    assert (counts.height, counts["user"].n_unique(), counts["item"].n_unique()) == (92_834, 1_892, 17_632)
    friends = read("lastfm-hetrec2011", "social")
    assert friends.height == 25_434 == 2 * 12_717
    assert among(friends.select(user="friend", friend="user"), friends, "user", "friend")


def test_lastfm_kg():
    for table in ("triples", "mcclk_triples"):
        triples = read("lastfm-kg", table)
        assert (triples.height, triples["relation"].n_unique(), entities(triples)) == (15_518, 60, 9_366)
    links = read("lastfm-kg", "links")
    assert links["item"].n_unique() == 3_846
    ratings = read("lastfm-kg", "mcclk_ratings")
    assert (ratings.height, ratings["user"].n_unique()) == (42_346, 1_872)
    assert ratings["label"].sum() == 42_346 / 2
    heard = read("lastfm-kg", "interactions").join(links, on="item")
    assert heard.height == ratings["label"].sum()


def test_ml_1m_kg():
    triples = read("ml-1m-kg", "triples")
    assert (triples.height, triples["relation"].n_unique(), entities(triples)) == (20_782, 7, 7_008)
    links = read("ml-1m-kg", "links")
    assert links.height == 2_347
    liked = read("ml-1m-kg", "interactions").filter(pl.col("rating") >= 4).join(links, on="item")
    assert (liked.height, liked["item"].n_unique(), liked["user"].n_unique()) == (376_887, 2_254, 6_036)


@pytest.mark.parametrize(
    ("dataset", "prefix", "rows", "of_entities", "of_relations"),
    [
        ("fb15k-237", "", (272_115, 17_535, 20_466), 14_541, 237),
        ("wn18rr", "", (86_835, 3_034, 3_134), 40_943, 11),
        ("kg-small", "nations_", (1_592, 199, 201), 14, 55),
        ("kg-small", "kinships_", (8_544, 1_068, 1_074), 104, 25),
        ("kg-small", "umls_", (5_216, 652, 661), 135, 46),
    ],
)
def test_knowledge_graphs(dataset, prefix, rows, of_entities, of_relations):
    parts = [read(dataset, f"{prefix}{part}") for part in ("train", "valid", "test")]
    assert tuple(part.height for part in parts) == rows
    triples = pl.concat(parts)
    assert entities(triples) == of_entities
    assert triples["relation"].n_unique() == of_relations
    assert not triples.is_duplicated().any()


@pytest.mark.parametrize(("campaign", "of_items"), [("all", 80), ("men", 34)])
@pytest.mark.parametrize("policy", ["random", "bts"])
def test_open_bandit(policy, campaign, of_items):
    rounds = read("open-bandit", f"{policy}_{campaign}")
    assert rounds.height == 10_000
    assert set(rounds["position"]) == {"1", "2", "3"}
    assert set(rounds["reward"]) == {0, 1}
    assert (rounds["item"].n_unique(), read("open-bandit", f"{policy}_{campaign}_items").height) == (of_items, of_items)
    if policy == "random":
        assert rounds["propensity"].is_close(1 / of_items, rel_tol=1e-6).all()


@pytest.mark.parametrize(
    ("dataset", "table", "rows", "of_users", "of_items"),
    [
        ("beauty-bert4rec", "interactions", 353_962, 40_226, 54_542),
        ("amazon-s3rec", "beauty_interactions", 198_502, 22_363, 12_101),
        ("amazon-s3rec", "toys_interactions", 167_597, 19_412, 11_924),
    ],
)
def test_sequences(dataset, table, rows, of_users, of_items):
    actions = read(dataset, table)
    assert (actions.height, actions["user"].n_unique(), actions["item"].n_unique()) == (rows, of_users, of_items)
    assert actions["timestamp"].n_unique() == rows
    assert actions["user"].rle().len() == of_users, "the actions of a user stand together"


def test_amazon_s3rec_describes_every_item():
    for prefix in ("beauty", "toys"):
        actions = read("amazon-s3rec", f"{prefix}_interactions")
        assert among(actions, read("amazon-s3rec", f"{prefix}_attributes"), "item")
    assert among(read("amazon-s3rec", "beauty_interactions"), read("amazon-s3rec", "beauty_items"), "item")
    assert among(read("amazon-s3rec", "beauty_interactions"), read("amazon-s3rec", "beauty_users"), "user")


def test_diginetica_gcegnn():
    train, test = read("diginetica-gcegnn", "train"), read("diginetica-gcegnn", "test")
    assert (train["session"].n_unique(), train["item"].n_unique()) == (186_670, 43_097)
    assert train.height - 186_670 == 719_470, "prefixes with a next click"
    assert test["session"].n_unique() == 60_858
    targets = read("diginetica-gcegnn", "test_targets")
    assert targets["session"].to_list() == test["session"].unique(maintain_order=True).to_list()
    assert among(pl.concat([test.select("item"), targets.select("item")]), train, "item")


def test_lastfm_lightgcn():
    train, test = read("lastfm-lightgcn", "train"), read("lastfm-lightgcn", "test")
    assert (train.height, test.height) == (42_135, 10_533)
    both = pl.concat([train, test])
    assert (both["user"].n_unique(), both["item"].n_unique()) == (1_880, 4_489)
    assert read("lastfm-lightgcn", "social").height == 25_434


def test_yelp_diffnet():
    parts = [read("yelp-diffnet", part) for part in ("train", "valid", "test")]
    assert [part.height for part in parts] == [185_869, 3_497, 18_579]
    rows = pl.concat(parts)
    assert (rows["user"].n_unique(), rows["item"].n_unique()) == (17_235, 37_378)
    assert set(rows["label"]) == {1}
    assert read("yelp-diffnet", "social").height == 143_765


def test_hillstrom():
    customers = read("hillstrom", "interactions")
    assert customers.height == 64_000
    arms = dict(customers["treatment"].value_counts().iter_rows())
    assert arms == {"Womens E-Mail": 21_387, "Mens E-Mail": 21_307, "No E-Mail": 21_306}
    assert [round(customers[name].mean(), 5) for name in ("visit", "conversion", "spend")] == [
        0.14678,
        0.00903,
        1.05091,
    ]


def test_criteo_sample():
    rows = read("criteo-sample", "interactions")
    assert rows.shape == (10_000, 40)
    assert round(rows["label"].mean(), 3) == 0.218
    numbers = [f"I{number}" for number in range(1, 14)]
    assert rows.select(numbers).null_count().sum_horizontal().item() > 0
    assert rows.drop(numbers).null_count().sum_horizontal().item() == 0


def test_avazu_sample():
    parts = [read("avazu-sample", part) for part in ("train", "valid", "test")]
    assert [part.height for part in parts] == [8_087, 480, 432]
    rows = pl.concat(parts)
    assert rows.width == 24
    assert round(rows["label"].mean(), 3) == 0.174
    assert rows["hour"].n_unique() == 1
    assert not rows.is_duplicated().any()


def test_ml_100k():
    ratings = read("ml-100k", "ratings")
    assert (ratings.height, ratings["user"].n_unique(), ratings["item"].n_unique()) == (100_000, 943, 1_682)
    assert ratings.equals(read("ml-100k", "interactions"))
    for number in range(1, 6):
        train, test = read("ml-100k", f"u{number}_train"), read("ml-100k", f"u{number}_test")
        assert (train.height, test.height) == (80_000, 20_000)
        assert pl.concat([train, test]).sort(pl.all()).equals(ratings.sort(pl.all()))
    tests = read("ml-100k", *(f"u{number}_test" for number in range(1, 6)))
    assert tests.sort(pl.all()).equals(ratings.sort(pl.all())), "the test parts share nothing"


def test_ml_latest_small():
    ratings = read("ml-latest-small", "interactions")
    assert ratings.height == 100_004
    items = read("ml-latest-small", "items")
    assert items.height == 9_125
    assert items["title"].str.contains("American President, The (1995)", literal=True).any(), "quotes are read"
    assert read("ml-latest-small", "tags").height == 1_296
    assert among(ratings, items, "item")


def test_citeulike_a():
    likes = read("citeulike-a", "interactions")
    assert (likes.height, likes["user"].n_unique(), likes["item"].n_unique()) == (204_986, 5_551, 16_980)
    assert read("citeulike-a", "item_likes").select("user", "item").sort(pl.all()).equals(likes.sort(pl.all()))
    train = read("citeulike-a", "train")
    assert train.height == 199_435 == 204_986 - 5_551, "one like of each user is held out"
    assert among(train, likes, "user", "item")
    for each in (1, 10):
        train, test = read("citeulike-a", f"cvae{each}_train"), read("citeulike-a", f"cvae{each}_test")
        assert train["user"].value_counts()["count"].unique().to_list() == [each]
        assert pl.concat([train, test]).sort(pl.all()).equals(likes.sort(pl.all()))


def test_flixster_gcmc():
    ratings = read("flixster-gcmc", "interactions")
    train, test = read("flixster-gcmc", "train"), read("flixster-gcmc", "test")
    assert (train.height, test.height) == (23_556, 2_617)
    both = pl.concat([train, test])
    assert not both.is_duplicated().any()
    assert among(both, ratings, "user", "item")
    assert ratings.height == both.height
    assert (ratings["rating"].min(), ratings["rating"].max()) == (0.5, 5)
    assert read("flixster-gcmc", "user_graph")["user"].n_unique() == 3_000
    assert read("flixster-gcmc", "item_graph")["item"].n_unique() == 3_000


def test_amazon_nbpo():
    parts = [read("amazon-nbpo", part) for part in ("train", "valid", "test")]
    assert [part.height for part in parts] == [31_887, 4_044, 4_044]
    rows = pl.concat(parts)
    assert (rows["user"].n_unique(), rows["item"].n_unique()) == (1_435, 1_522)


@pytest.mark.parametrize(
    ("graph", "nodes", "edges"), [("cora", 2_708, 5_278), ("citeseer", 3_327, 4_552), ("pubmed", 19_717, 44_324)]
)
def test_planetoid_graphs(graph, nodes, edges):
    links = read("planetoid", f"{graph}_links")
    assert pl.concat([links["node"], links["neighbour"]]).n_unique() == nodes
    low, high = pl.min_horizontal("node", "neighbour"), pl.max_horizontal("node", "neighbour")
    assert links.filter(low != high).select(low.alias("low"), high.alias("high")).unique().height == edges


@pytest.mark.parametrize(("graph", "features"), [("cora", 1_433), ("citeseer", 3_703)])
def test_planetoid_features(graph, features):
    known, test = read("planetoid", f"{graph}_features"), read("planetoid", f"{graph}_test_features")
    assert pl.concat([known["feature"], test["feature"]]).cast(int).max() == features - 1
    labelled = read("planetoid", f"{graph}_train_features")
    assert among(labelled, known, "node", "feature"), "the labelled nodes are the first ones"


@pytest.mark.parametrize(
    ("table", "simplices", "nodes"),
    [
        ("email_enron", 10_883, 143),
        ("contact_high_school", 172_035, 327),
        ("contact_primary_school", 106_879, 242),
        ("ndc_classes", 49_724, 1_161),
    ],
)
def test_simplicial(table, simplices, nodes):
    rows = read("simplicial", table)
    assert (rows["simplex"].n_unique(), rows["node"].n_unique()) == (simplices, nodes)
    assert rows.group_by("simplex").agg(pl.col("timestamp").n_unique())["timestamp"].unique().to_list() == [1]


def test_games_dealrec():
    parts = [read("games-dealrec", part) for part in ("train", "valid", "test")]
    assert [part.height for part in parts] == [299_987, 22_609, 19_733]
    rows = pl.concat(parts)
    assert (rows.height, rows["user"].n_unique(), rows["item"].n_unique()) == (342_329, 49_156, 17_332)
    items = read("games-dealrec", "items")
    assert among(rows, items, "item")
    assert (items["title"] == "").sum() == 19
