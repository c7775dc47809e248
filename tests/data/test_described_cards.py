"""Cards of data sets whose bytes were never seen: what they may say, and that no standard data set is forgotten."""

from pathlib import Path

import pytest

from recbench import resources
from recbench.data.cards import BorrowedTable, card_names, load_card
from recbench.data.readers import read_table

AMAZON = [
    "books",
    "cds-and-vinyl",
    "clothing-shoes-and-jewelry",
    "electronics",
    "home-and-kitchen",
    "movies-and-tv",
    "sports-and-outdoors",
    "toys-and-games",
    "video-games",
]
STANDARD = {
    "MovieLens 100K": ["ml-100k"],
    "MovieLens 1M": ["ml-1m", "ml-1m-original"],
    "MovieLens 10M": ["ml-10m"],
    "MovieLens 20M": ["ml-20m"],
    "MovieLens 25M": ["ml-25m"],
    "MovieLens 32M": ["ml-32m"],
    "MovieLens latest": ["ml-latest", "ml-latest-small"],
    "Netflix Prize": ["netflix-prize"],
    "Million Song (Taste Profile)": ["msd-taste-profile"],
    "Amazon 2014": [f"amazon-2014-{category}" for category in ["beauty", *AMAZON]],
    "Amazon 2018": [f"amazon-2018-{category}" for category in ["all-beauty", *AMAZON]],
    "Amazon 2023": [f"amazon-2023-{category}" for category in ["beauty-and-personal-care", *AMAZON]],
    "Yelp": ["yelp"],
    "Gowalla": ["gowalla-snap", "gowalla-lightgcn"],
    "Last.fm HetRec": ["lastfm-hetrec2011"],
    "Last.fm 360K": ["lastfm-360k"],
    "Last.fm 1K": ["lastfm-1k"],
    "Steam": ["steam"],
    "Book-Crossing": ["book-crossing"],
    "Criteo": ["criteo-kaggle", "criteo-x1", "criteo-x4", "criteo-terabyte"],
    "Avazu": ["avazu-kaggle", "avazu-x1", "avazu-x4"],
    "Frappe": ["frappe"],
    "MovieLens-tag": ["movielens-tag"],
    "KKBox": ["kkbox", "kkbox-x1"],
    "Taobao": ["taobao-ads", "taobao-user-behavior"],
    "KuaiRec": ["kuairec"],
    "KuaiRand": ["kuairand", "kuairand-1k"],
    "MicroLens": ["microlens"],
    "MIND": ["mind", "mind-small"],
    "Yoochoose": ["yoochoose"],
    "Diginetica": ["diginetica", "diginetica-gcegnn"],
    "Retailrocket": ["retailrocket"],
    "Coat": ["coat"],
    "Yahoo! R3": ["yahoo-r3"],
    "Open Bandit": ["open-bandit", "open-bandit-full"],
    "Criteo uplift": ["criteo-uplift"],
    "Hillstrom": ["hillstrom"],
    "Epinions": ["epinions"],
    "Ciao": ["ciao", "ciao-dvd"],
    "FB15k-237": ["fb15k-237"],
    "WN18RR": ["wn18rr"],
    "YAGO3-10": ["yago3-10"],
    "Nations/Kinships/UMLS": ["kg-small"],
    "KGAT's Amazon-book": ["kgat-amazon-book"],
    "KGAT's Last-FM": ["kgat-last-fm"],
    "KGAT's Yelp2018": ["kgat-yelp2018"],
    "citeulike-a": ["citeulike-a"],
    "FINN.no slates": ["finn-no-slates"],
}
DESCRIBED = [
    path.stem
    for path in sorted(resources.shipped("datasets").glob("*.yaml"))
    if "\nverified: described\n" in path.read_text(encoding="utf-8")
]


@pytest.fixture
def sample():
    """Return the path of a file in the mirror."""

    def find(name):
        path = Path(resources.mirror() or "") / name
        if not path.is_file():
            pytest.skip("needs RECBENCH_MIRROR, a folder with the raw files")
        return path

    return find


@pytest.mark.parametrize("dataset", STANDARD)
def test_every_standard_dataset_has_a_card(dataset):
    assert set(STANDARD[dataset]) <= set(card_names())


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_described_card_claims_nothing_it_cannot_know(name):
    card = load_card(name)
    assert all(file.bytes is None and file.sha256 is None for file in card.files.values())
    assert "never seen" in card.basis or "no checksum was computed" in card.basis


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_file_of_a_described_card_can_be_had_and_is_used(name):
    card = load_card(name)
    tables = [table for table in card.tables.values() if not isinstance(table, BorrowedTable)]
    used = {file for table in tables for file in table.file} | {file.archive for file in card.files.values()}
    assert set(card.files) <= used
    for file in card.files.values():
        assert file.urls or file.archive or card.obtain


@pytest.mark.parametrize("name", DESCRIBED)
def test_statistics_are_of_columns_that_the_card_reads(name):
    card = load_card(name)
    for statistic in card.statistics:
        table, _, column = statistic.partition(".")
        assert not column or column in [known.name for known in card.tables[table].types.values()]


@pytest.mark.parametrize(
    ("name", "table", "file", "rows"),
    [
        ("criteo-kaggle", "interactions", "criteo-sample/train_examples.txt.xz", 10_000),
        ("avazu-kaggle", "interactions", "avazu-sample/train.csv.xz", 8_087),
        ("open-bandit-full", "random_all", "open-bandit/random/all/all.csv.xz", 10_000),
        ("open-bandit-full", "items_all", "open-bandit/random/all/item_context.csv", 80),
        ("ml-20m", "interactions", "ml-latest-small/ratings.csv.xz", 100_004),
        ("ml-20m", "items", "ml-latest-small/movies.csv.xz", 9_125),
        ("ml-20m", "tags", "ml-latest-small/tags.csv", 1_296),
    ],
)
def test_a_description_reads_a_sample_of_the_same_layout(sample, name, table, file, rows):
    card = load_card(name)
    (described,) = card.tables[table].file
    assert read_table(card, table, {described: sample(file)}).height == rows
