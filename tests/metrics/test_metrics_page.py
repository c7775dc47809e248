import doctest
import inspect
import re
from pathlib import Path

import pytest

from recbench.metrics import names, offpolicy, uplift

PAGE = Path(names.__file__).with_name("METRICS.md")
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = [
    "Conventions",
    "Lists",
    "Whole rankings",
    "Pointwise",
    "Calibration",
    "Per field value",
    "Beyond accuracy",
    "Fairness gaps",
    "Knowledge-graph completion",
    "Off-policy",
    "Uplift",
    "Edge cases",
    "What libraries differ in",
]
FAMILIES = (names.LISTS, names.WHOLE, names.BEYOND, names.POINTWISE, names.GROUPED, names.RANK)


def functions(module):
    """Public functions that a module defines."""
    return [
        name
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and not name.startswith("_")
    ]


def entries():
    """Text of each metric's entry on one line, by name."""
    parts = re.split(r"^##+ (.*)$", TEXT, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {title.strip("`"): " ".join(text.split()) for title, text in pairs if title.startswith("`")}


def test_the_cases_worked_by_hand():
    code = re.sub(r"^```.*$", "", TEXT, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(code, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 80
    report = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


def test_every_metric_has_an_entry_and_every_entry_a_case():
    known = {form for family in FAMILIES for form in family} | {"gap:ATTRIBUTE:METRIC"}
    known |= {*functions(offpolicy), *functions(uplift)}
    assert set(entries()) == known
    assert [name for name, text in entries().items() if ">>>" not in text or "By hand" not in text] == []


def test_entries_state_the_direction_that_names_have():
    """Of lists, whole rankings and ranks the head of the section states it."""
    text_of = entries()
    words = {True: "igher is better", False: "ower is better", None: "direction"}
    for family in (names.POINTWISE, names.BEYOND, {"gauc": names.GROUPED["gauc"]}):
        for name, better in family.items():
            assert [value for value, word in words.items() if word in text_of[name]] == [better], name


def test_sections():
    assert re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE) == SECTIONS


def test_links_lead_to_headings():
    headings = re.findall(r"^##+ (.*)$", TEXT, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= anchors


def test_tables_have_as_many_cells_in_every_row():
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, flags=re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "conformance").glob("test_against_*.py")))
def test_the_page_names_every_library_that_it_is_compared_with(path):
    library = path.stem.removeprefix("test_against_")
    names_on_the_page = {"sklearn": "scikit-learn", "sklift": "scikit-uplift", "pytrec_eval": "pytrec-eval"}
    assert names_on_the_page.get(library, library) in TEXT.lower()
