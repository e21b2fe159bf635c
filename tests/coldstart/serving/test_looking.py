import json
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from coldstart import ColdStartEngine
from coldstart.segments import NINE
from coldstart.serving.looking import nine_of, read_report
from encoders.texts import node_texts
from encoders.tfidf import TfidfEncoder
from tests.coldstart.serving.conftest import KEY
from tests.coldstart.serving.process import running_server

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, Debian's or another that is installed."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {BROWSERS} is installed; apt-get install {BROWSERS[0]}")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def encoding(graph, tmp_path_factory):
    """A saved engine that encodes texts by itself."""
    folder = tmp_path_factory.mktemp("encoding") / "model"
    encoder = TfidfEncoder.fit(list(node_texts(graph, "Movie")), dim=16)
    ColdStartEngine.fit(graph, encoder=encoder, cache=None, device="cpu").save(folder)
    return folder


@pytest.fixture
def page(browser, encoding, tmp_path):
    """The page of a server over that engine."""
    report = tmp_path / "report.json"
    rows = [{"scorer": "engine", "segment": s, "ndcg": n / 10} for n, s in enumerate(NINE)]
    report.write_text(json.dumps({"k": 20, "rows": rows}))
    with running_server(encoding, tmp_path / "state", "--report", str(report)) as address:
        made = browser.new_page()
        made.set_default_timeout(20_000)
        errors = []
        made.on("pageerror", lambda error: errors.append(str(error)))
        made.goto(address)
        made.fill("#apikey", "secret")
        made.press("#apikey", "Enter")
        made.wait_for_selector("main:visible")
        yield made
        assert errors == []


def listed(page):
    return [line.get_attribute("data-key") for line in page.query_selector_all("#list li")]


@pytest.mark.slow
def test_a_person_is_made_up_a_film_is_added_and_the_list_changes(page):
    for key in ("m0", "m4"):
        page.fill("#likes", key)
        page.press("#likes", "Enter")
        page.wait_for_selector(f"#liked li:nth-child({1 if key == 'm0' else 2})")
    page.click("#make")
    page.wait_for_selector("#list li:nth-child(10)")
    page.fill("#title", "The orbit and the starship")
    page.select_option("#entities", label="space films")
    page.click("#add")
    expect(page.locator("#status")).to_contain_text("The orbit and the starship is there, ")
    assert page.text_content("#list li.new").startswith("The orbit and the starship")
    page.click("#list li.new >> text=why")
    expect(page.locator("#why .sentence")).to_contain_text("space films with 2 movies you rated 5")
    page.click("#list li.new >> text='dislike'")
    expect(page.locator("#status")).to_contain_text("dislike counted")
    assert page.query_selector("#list li.new") is None
    best = listed(page)[0]
    page.click("#list li:first-child >> text='like'")
    expect(page.locator("#status")).to_contain_text("counted; the list is the new one")
    expect(page.locator("#list li").first).not_to_have_attribute("data-key", best)


@pytest.mark.slow
def test_the_page_shows_a_known_person_and_the_nine_segments(page, tmp_path):
    page.fill("#who", "u5")
    page.press("#who", "Enter")
    page.wait_for_selector("#list li:nth-child(10)")
    assert page.text_content("#for") == "u5"
    plain = listed(page)
    page.fill("#diversity", "0.9")
    expect(page.locator("#status")).to_contain_text("diversity costs")
    assert listed(page) != plain
    cells = [cell.text_content() for cell in page.query_selector_all("#nine td")]
    assert cells == [f"{n / 10:.3f}" for n in range(9)]
    page.fill("#who", "nobody <b>")
    page.press("#who", "Enter")
    expect(page.locator("#status")).to_contain_text("'nobody <b>' is not among the 60 known")


def test_nodes_are_found_by_a_part_of_their_name_and_named(client):
    found = client.post("/find", json={"type": "Movie", "part": "ORBIT", "most": 3}).json()["nodes"]
    assert 0 < len(found) <= 3
    assert all("orbit" in node["name"] for node in found)
    named = client.post("/names", json={"type": "Genre", "keys": ["space"]}).json()["nodes"]
    assert named == [{"key": "space", "name": "space films"}]
    assert client.post("/find", json={"type": "Planet"}).status_code == 422
    assert client.post("/names", json={"type": "Genre", "keys": ["x"]}).status_code == 404


def test_the_page_may_load_nothing_but_itself(client):
    headers = client.get("/", headers=KEY).headers
    assert "default-src 'none'; script-src 'sha256-" in headers["content-security-policy"]


def test_a_report_without_the_nine_segments_has_no_table(tmp_path):
    rows = [{"scorer": "engine", "segment": "cold_items", "ndcg": 0.4}]
    assert nine_of({"k": 20, "rows": rows}) is None
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ValueError, match="coldstart evaluate --json"):
        read_report(tmp_path / "report.json")
