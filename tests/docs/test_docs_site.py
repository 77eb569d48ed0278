"""The site builds without a warning, its notebook runs, and what it shows is complete: links, captions, facts."""

from __future__ import annotations

import html
import html.parser
import importlib
import pathlib
import re
import shutil
import sys
import urllib.parse

import pages
import pytest
from sgr_train import methods, recipes
from sgr_train.config import COMMANDS, REGISTRIES, fields_of
from sgr_train.registry import Registry
from site_build import Site, build

import sgr_kernels as sk
from sgr_kernels.engines import ENGINES

DOCS = pages.ROOT / "docs"
OUTSIDE = ("http://", "https://", "mailto:")


class Page(html.parser.HTMLParser):
    """What a page links to, the places that can be linked to, and its pictures without a caption."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pictures = self.figures = self.captions = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.ids |= {named[key] for key in ("id", "name") if named.get(key)}
        self.links += [named[key] for key in ("href", "src") if named.get(key)]
        self.pictures += tag == "img"
        self.figures += tag == "figure"
        self.captions += tag == "figcaption"


@pytest.fixture(scope="session")
def shown(site: Site) -> dict[pathlib.Path, Page]:
    return {path: Page(path.read_text()) for path in site.folder.rglob("*.html")}


def test_whoever_develops_can_build_it():
    extras = dict(re.findall(r"^(\w+) = \[(.*)\]$", (pages.ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    pinned = {line.partition("==")[0].lower() for line in (pages.ROOT / "constraints.txt").read_text().splitlines()}
    assert "docs" in re.search(r"sgr-kernels\[(.*?)\]", extras["dev"])[1].split(",")
    assert set(re.findall(r'"([\w-]+)"', extras["docs"])) == {"sphinx", "furo", "myst-nb"} <= pinned


def test_it_builds_without_a_warning(site):
    assert site.status == 0 and "WARNING" not in site.said, site.said


def test_every_page_is_there(site):
    expected = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert expected <= {path.relative_to(site.folder) for path in site.folder.rglob("*.html")}


def test_every_link_leads_somewhere(site, shown):
    dead = []
    for path, page in shown.items():
        for link in page.links:
            if link.startswith(OUTSIDE) or link.startswith("data:"):
                continue
            file, _, place = urllib.parse.unquote(link).partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            found = target.exists() and (not place or target not in shown or place in shown[target].ids)
            dead += [] if found else [f"{path.relative_to(site.folder)}: {link}"]
    assert dead == []


def test_every_picture_has_a_caption(site, shown):
    found = {str(path.relative_to(site.folder)): (p.pictures, p.figures, p.captions) for path, p in shown.items()}
    assert {name: counts for name, counts in found.items() if len(set(counts)) > 1} == {}
    assert sum(pictures for pictures, *_ in found.values()) > 10


def test_a_caption_says_what_to_see():
    pages_of_pictures = [path for path in DOCS.rglob("*.md") if path.name != "results.md"]
    captions = [caption for path in pages_of_pictures for caption in re.findall(r"!\[(.*?)\]\(", path.read_text())]
    assert len(captions) > 10 and [caption for caption in captions if len(caption.split()) < 6] == []


def test_cells_are_told_apart_by_what_they_say(site):
    page = (site.folder / "command-line.html").read_text()
    [short] = re.findall(r'<td class="([^"]*)">(?:(?!</td>).)*>--epochs<', page)
    [long] = re.findall(r'<td class="([^"]*)"><p>Images a step\. ', page)
    assert ("short" in short.split(), "long" in long.split()) == (True, True)


def test_the_tutorial_was_executed(site):
    text = (site.folder / "tutorial.html").read_text()
    assert (site.folder / "_downloads").exists() and list((site.folder / "_downloads").rglob("tutorial.ipynb"))
    assert re.search(r"layerwise.*?\d\d\.\d%", text, re.DOTALL) and text.count("<img") == 1


# --- facts that the code knows ----------------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference(shown, site):
    named = {f"sgr_kernels.{name}" for name in sk.__all__ if not name.startswith("_")}
    assert named - shown[site.folder / "api.html"].ids == set()


def of_the_package(entries: Registry) -> list[str]:
    """Names of entries that no plug-in of another test has brought."""
    return [name for name in entries.names() if entries.find(name).__module__.startswith("sgr_train.")]


def test_every_method_has_a_page():
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} == {*of_the_package(methods.REGISTRY), "index"}


@pytest.mark.parametrize("name", of_the_package(methods.REGISTRY))
def test_a_page_of_a_method_has_its_equation_its_cost_and_its_commands(name):
    text = (DOCS / "methods" / f"{name}.md").read_text()
    parts = (r"^\$\$ ", rf"^```\{{generated\}} facts {name}$", r"^```\{generated\} measured ", f"^sgr-train .*{name}")
    assert [part for part in parts if not re.search(part, text, re.MULTILINE)] == []


def test_every_flag_is_explained_in_full(site):
    """What the help says stands on the page as it is: nothing of it was taken for markup."""
    page = (site.folder / "command-line.html").read_text()
    shown = one_line(html.unescape(re.sub(r"</?[a-z][^>]*>", "", page)))
    options = [option for kind in COMMANDS.values() for option in fields_of(kind)]
    for entries in REGISTRIES.values():
        options += [option for name in of_the_package(entries) for option in entries.options(name)]
    assert len(options) > 100
    assert [option.flag for option in options if one_line(option.help) not in shown] == []


def one_line(text: str) -> str:
    """Without the marks of code, which a page does not show."""
    return " ".join(text.replace("`", "").split())


def test_what_the_layout_names_exists():
    paths = re.findall(r"`([\w./]+)`", (DOCS / "layout.md").read_text())
    of_operators = {
        path.name for folder in ("sgr_kernels/operators", "csrc") for path in pages.ROOT.glob(f"{folder}/*/*")
    }
    assert [path for path in paths if not (pages.ROOT / path).exists() and path not in of_operators] == []


def test_recipes_read_lambda_as_the_page_says():
    settings = recipes.find("table6-resnet32-k2-sgr").settings
    assert (settings["weight"], settings["reduction"]) == (1.0, "batchmean")
    assert 'take lambda 1 with `"batchmean"`' in (DOCS / "lambda.md").read_text()


def test_every_engine_is_explained():
    rows = re.findall(r'^\| `"(\w+)"`', (DOCS / "engines.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(["auto", *ENGINES])


@pytest.fixture
def refusals(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "site"))
    yield importlib.import_module("refusals")
    del sys.modules["refusals"]


def quoted() -> list[str]:
    return re.findall(r"^```\{refusal\} (.*)$", (DOCS / "refusals.md").read_text(), re.MULTILINE)


def test_every_message_has_a_cure(refusals):
    cured = [refusals.message_with(words) for words in quoted()]
    assert len(cured) == len(set(cured)) > 40
    assert [message for message in refusals.messages() if message not in cured] == []


def test_messages_are_read_from_the_code(refusals):
    message = refusals.message_with("must not write in place into its input")
    assert message.endswith("for example nn.ReLU(inplace=False)")
    for words in "no such words", "two passes":
        with pytest.raises(LookupError, match=f"messages of engines, gates have the words: {words}"):
            refusals.message_with(words)


READ = re.compile(r"""(?:environ(?:\.get\(|\[)|ENV\{|switch\()["']?([A-Z_]+)""")


def test_every_variable_of_the_environment_is_explained():
    folders = ("sgr_kernels", "cmake")
    sources = [pages.ROOT / "setup.py", *(path for folder in folders for path in (pages.ROOT / folder).rglob("*.*"))]
    read = {name for path in sources if path.suffix in (".py", ".cmake") for name in READ.findall(path.read_text())}
    page = (DOCS / "backends.md").read_text()
    explained = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    assert read - {"CUDACXX"} == explained


# --- what is wrong is noticed -----------------------------------------------------------------------------------------


MISTAKES = {  # and what is said of them
    "[link](nowhere.md)": "'nowhere.md'",
    "[link](#no-place)": "'no-place'",
    "```{generated} nothing\n```": "generated must be one of",
    "```{generated} measured nothing; fused\n```": "no step was measured of: nothing",
    "```{refusal} no such words\n```": "0 messages of engines, gates have the words: no such words",
    "$$ \\nocommand $$": "a formula cannot be drawn",
    "{py:func}`sgr_kernels.no_function`": "sgr_kernels.no_function",
}


def test_mistakes_are_errors(tmp_path):
    source = tmp_path / "docs"
    shutil.copytree(DOCS / "site", source / "site")
    shutil.copy(DOCS / "conf.py", source)
    (source / "index.md").write_text("\n\n".join(["# Title", *MISTAKES]))
    site = build(source, tmp_path)
    assert site.status == 1
    assert [said for said in MISTAKES.values() if said not in site.said] == [], site.said


def test_a_dead_link_and_a_picture_without_a_caption_are_noticed():
    page = Page('<a href="x.html#y">x</a><figure><img src="z.png"></figure><h1 id="top">t</h1>')
    assert page.links == ["x.html#y", "z.png"] and page.ids == {"top"}
    assert (page.pictures, page.figures, page.captions) == (1, 1, 0)
