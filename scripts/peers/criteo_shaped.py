"""The log that scripts/criteo_log.py generates, as a card and a protocol."""

NAME = "criteo-shaped"
TITLE = "Generated rows in the shape of Criteo's log"
NUMBERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]

CARD = {
    "name": NAME,
    "version": "1",
    "title": TITLE,
    "licence": "none",
    "citation": "none",
    "homepage": "https://example.org",
    "verified": "described",
    "basis": "generated",
    "files": {"log.tsv": {}},
    "tables": {
        "interactions": {
            "file": "log.tsv",
            "reader": "csv",
            "separator": "\t",
            "header": ["label", *NUMBERS, *CATEGORIES],
            "columns": {"label": "label"}
            | {name: f"{name}:number?" for name in NUMBERS}
            | {name: name for name in CATEGORIES},
        }
    },
}
PROTOCOL = {
    "kind": "labelled",
    "name": "random-rows-811",
    "version": "1",
    "label": {"column": "label", "positive_from": 1},
    "group": None,
    "fields": [{"name": name, "transform": "standardise"} for name in NUMBERS]
    + [{"name": name} for name in CATEGORIES],
    "split": {"kind": "random-rows", "valid": 0.1, "test": 0.1},
}
