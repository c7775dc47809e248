from recbench.reporting.console import refit, search_range

WRITTEN = """\
Title of a model.

Source      Somebody: A title that is long. A Venue,
            arXiv:1234.56789.
Logit       w x
            + b
"""


def test_text_beside_a_label_stays_beside_it():
    assert refit(WRITTEN, 52, written=52) == WRITTEN
    assert refit(WRITTEN, 36, written=52).splitlines() == [
        "Title of a model.",
        "",
        "Source      Somebody: A title that",
        "            is long. A Venue,",
        "            arXiv:1234.56789.",
        "Logit       w x",
        "            + b",
    ]


def test_search_spaces_in_words():
    assert search_range({}) == ""
    assert search_range({"choices": [2, True, "score"]}) == "2, true, score"
    assert search_range({"low": 1e-7, "high": 1e-2, "log": True}) == "1e-07 to 0.01 (log)"
    assert search_range({"low": 1, "high": 20, "log": False}) == "1 to 20"
