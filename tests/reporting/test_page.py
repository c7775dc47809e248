import shutil
from html.parser import HTMLParser

import pytest
from fake_results import Fake

from recbench.reporting.boards import collect_records
from recbench.reporting.page import count, mean_interval, seconds, write_markdown, write_page
from recbench.running.result import ReferenceRecord

REFERENCE = ReferenceRecord(source="A & B | C", benchmark="topn/ml-100k", metric="ndcg@10", value=0.99, tolerance=0.01)
HOSTILE = "<script>alert(1)</script> | \n# no"


@pytest.fixture
def records(write_results):
    out = write_results(
        Fake("ease", 0.331, seeds=[0], deterministic=True, fit_s=0.3),
        Fake("multvae", 0.330, fit_s=31, reference=REFERENCE),
        Fake("ials", 0.32, fit_s=7, parameters=2_140_000),
        Fake("random", 0.02, fit_s=0.001),
        Fake("kgat", 0, fails=HOSTILE),
    )
    write_results(Fake("lr", 0.75), Fake("fm", 0.78), benchmark="ctr/ml-100k")
    return collect_records([out], "command")


class Structure(HTMLParser):
    """Collect the rows of the boards' bodies, and check that tags nest."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.models: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "th" and "tbody" in self.open:
            self.models.append(data)


def test_the_page_is_whole_self_contained_and_escaped(records, tmp_path):
    html = write_page(records, tmp_path / "index.html").read_text()
    page = Structure()
    page.feed(html)
    assert page.open == []
    assert page.models == ["fm", "lr", "ease", "multvae", "ials", "random", "kgat"]  # best first, failures last
    tags = [tag for tag, _ in page.seen]
    assert tags.count("script") == 1
    assert tags.count("svg") == 6  # every finished model
    links = [attrs.get("href") or attrs.get("src") or "" for _, attrs in page.seen]
    assert all(link == "" or link.startswith(("#", "data:")) for link in links)
    assert "http" not in html.replace("http-equiv", "")
    assert "{{" not in html
    assert "Published numbers (not ranked)" in html
    assert "<td>0.99 ± 0.01</td>" in html[html.index("Published numbers") :]
    assert 'data-value="0.99"' not in html


def test_the_range_leaves_out_a_far_baseline(records, tmp_path):
    html = write_page(records, tmp_path / "index.html").read_text()
    assert html.count('class="off"') == 1


def test_markdown_tables_are_rectangular(records, tmp_path):
    text = write_markdown(records, tmp_path / "README.md").read_text()
    assert "<script>" not in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3  # two boards, one table of published numbers
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1
    assert text.index("| ease |") < text.index("| ials |") < text.index("| kgat |")


def test_sorting_in_a_browser(records, tmp_path):
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no chromium or google-chrome on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    path = write_page(records, tmp_path / "index.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 390, "height": 800})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        board = page.locator("#topn-ml-100k table.board")

        def models() -> list[str]:
            return board.locator("tbody th").all_inner_texts()

        assert models() == ["ease", "multvae", "ials", "random", "kgat"]
        board.get_by_role("button", name="fit s").click()
        assert models() == ["multvae", "ials", "ease", "random", "kgat"]
        board.get_by_role("button", name="fit s").click()
        assert models() == ["random", "ease", "ials", "multvae", "kgat"]  # no value stays last
        board.get_by_role("button", name="model").click()
        assert models() == ["ease", "ials", "kgat", "multvae", "random"]
        extra = board.get_by_role("button", name="mrr@10")
        assert not extra.is_visible()
        page.locator("#topn-ml-100k").get_by_label("all 6 metrics").check()
        assert extra.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 390  # tables scroll, the page does not
        assert complaints == []
        browser.close()


def test_numbers_for_people():
    assert [count(n) for n in (None, 0, 999, 1000, 125_440, 2_140_000, 99_960_000, 3e9)] == [
        "-",
        "0",
        "999",
        "1.0k",
        "125k",
        "2.1M",
        "100M",
        "3.0G",
    ]
    assert [seconds(s) for s in (None, 0.123, 1.26, 12.6, 4000.2)] == ["-", "0.12", "1.3", "13", "4000"]
    assert mean_interval(0.3345, (0.3333, 0.3357), False) == "0.3345 ± 0.0012"
    assert mean_interval(0.3345, None, True) == "0.3345 exact"
    assert mean_interval(0.3345, None, False) == "0.3345 ± ?"
