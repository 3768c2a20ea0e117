"""The documentation site: it is built without a warning, from pages that are there; and the README is short."""

import importlib.util
import io
import re
import sys
import warnings
from dataclasses import dataclass, fields
from html import unescape
from typing import Literal
from urllib.parse import unquote

import numpy as np
import pytest

from agents import REGISTRY
from benchmarks import table
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.ranges import Count, Discount
from rlkit.runs import registry
from rlkit.testing import random_episodes
from rlkit.training import loop
from rlkit.types import Preset

ROOT = table.ROOT
DOCS = ROOT / "docs"
TEXT = re.compile(r"<[^>]+>")


def extension(name):
    """A module of docs, which is no package."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


# --- the README ---


def test_the_readme_is_short_and_names_every_agent_and_begins_with_the_picture():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for name, entry in REGISTRY.items():
        assert f"[`{name}`]({entry.module.replace('.', '/')}.py)" in text, name
    assert re.search(r"\]\(([^)]+)\)", text).group(1) == "docs/headline.png"
    for command in ("make train", "make test", "pip install"):
        assert f"\n    {command}" in text


def test_links_of_the_documents_lead_to_files():
    links = extension("repository_links")
    documents = [ROOT / name for name in ("README.md", *links.COPIES)]
    for document in [*documents, *DOCS.glob("*.md")]:
        _, missing = links.fitted(document.read_text(), document, document)
        assert not missing, document


# --- links ---


def test_links_are_fitted_to_the_place_of_the_page():
    links = extension("repository_links")

    def fitted(text, document, page):
        return links.fitted(text, ROOT / document, DOCS / page)

    # in a page: pages stay links, other files are code, and what does not exist is told
    text = (
        "[words](export.md#a-b) [rlkit/types.py](../rlkit/types.py) [rows](../tests/toys.csv) [net](https://x.org/a.py)"
    )
    assert fitted(text, "docs/data.md", "data.md") == (
        "[words](export.md#a-b) `rlkit/types.py` rows (`tests/toys.csv`) [net](https://x.org/a.py)",
        [],
    )
    gone = "[a](../agents/gone.py) [b](gone.md) [c](../../../etc/passwd) ![picture](gone.png)"
    assert fitted(gone, "docs/data.md", "data.md")[1] == ["../agents/gone.py", "gone.md", "../../../etc/passwd"]
    # an agent's file, the folder of all, and some documents are pages too
    text = "[agents/sac_rnd.py](../agents/sac_rnd.py) [all](../agents)"
    assert fitted(text, "docs/data.md", "data.md")[0] == "[agents/sac_rnd.py](agents/sac-rnd.md) [all](agents/index.md)"
    text = "[ARCHITECTURE.md](../ARCHITECTURE.md#one-normaliser)"
    assert fitted(text, "docs/data.md", "data.md")[0] == "[ARCHITECTURE.md](project/architecture.md#one-normaliser)"
    text = "[a](docs/data.md) [CONTRIBUTING.md](CONTRIBUTING.md) [b](rlkit/types.py) [c](benchmarks/tables)"
    expected = "[a](../data.md) [CONTRIBUTING.md](contributing.md) b (`rlkit/types.py`) c (`benchmarks/tables`)"
    assert fitted(text, "ARCHITECTURE.md", "project/architecture.md")[0] == expected


# --- pages of agents ---


@dataclass(frozen=True)
class Inner:
    """A Config in a Config."""

    size: Count = 2
    """Size."""


@dataclass(frozen=True)
class Base:
    """Fields that are inherited."""

    gamma: Discount = 0.99
    """Discount | per
    step."""
    silent: str = "a"


@dataclass(frozen=True)
class Config(Base):
    """Fields of every kind."""

    kind: Literal["x", "y"] | None = None
    """Kind."""
    units: tuple[Count, ...] = (3, 4)
    rate: float = 3e-4
    """Rate."""
    inner: Inner = Inner(size=3)
    """Inner."""


def test_settings_are_told_as_they_are_written():
    pages = extension("agent_pages")
    assert pages.settings(Config) == [
        ("gamma", "0.99", "at least 0 and at most 1", "Discount | per step."),
        ("silent", '"a"', "", ""),
        ("kind", "None", "x, y; None", "Kind."),
        ("units", "(3, 4)", "at least 1", ""),
        ("rate", "3e-4", "", "Rate."),
        ("inner", "Inner(size=3)", "", "Inner."),
    ]


def test_presets_are_told_by_what_they_change():
    pages = extension("agent_pages")
    found = {
        "plain": Preset(Config(), 1000, "ours"),
        "pendulum": Preset(Config(), 1000, "ours"),
        "hopper/medium": Preset(
            Config(gamma=0.9, inner=Inner(5)), 10, "theirs, arXiv 2110.06169", {"normalise": "standard"}, {"share": 0.5}
        ),
    }
    text = pages.presets(registry.Method("module", Config, found))
    assert "| `plain` | any that is named | 1,000 | the defaults |  |" in text
    assert "| `pendulum` | `pendulum/mixed-v0` |" in text  # the embedded one
    assert "- `plain`, `pendulum`: ours" in text
    assert "`gamma = 0.9`, `inner.size = 5`, `online.share = 0.5` | `normalise = standard` |" in text
    assert "- `hopper/medium`: theirs, [arXiv 2110.06169](https://arxiv.org/abs/2110.06169)" in text


def test_docstrings_get_links_and_keep_their_words():
    linked = extension("agent_pages").linked
    text = "Chi, arXiv\n2303.04137, see docs/toys.md, agents/__init__.py and ``docs/toys.md``, `__init__`"
    paper = "[arXiv 2303.04137](https://arxiv.org/abs/2303.04137)"
    code = r"agents/\_\_init\_\_.py and ``docs/toys.md``, `__init__`"
    assert linked(text) == f"Chi, {paper}, see [toys](../toys.md), {code}"


def test_pages_of_agents_that_are_gone_go(tmp_path):
    (tmp_path / "old.md").write_text("x")
    extension("agent_pages").write(tmp_path, {"new.md": "y"})
    assert [path.name for path in tmp_path.iterdir()] == ["new.md"]


# --- the whole agent of the page that says how to add one ---


def test_the_agent_of_the_page_learns(mesh, monkeypatch):
    page = (DOCS / "add_agent.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    module = type(sys)("my_agent")
    monkeypatch.setitem(sys.modules, "my_agent", module)  # where its annotations are looked up
    exec(compile(code, "my_agent.py", "exec"), module.__dict__)
    episodes = random_episodes()
    for episode in episodes:
        seen = episode["observations"][:-1, :2]
        episode["actions"] = np.where(seen > 0, 0.9, -0.9).astype(np.float32)
    data = from_episodes(episodes)
    normaliser = Normaliser.fit(data, DataOptions("signs"))
    config = module.Config(widths=(16,), batch_size=32, learning_rate=0.03)
    stages = config.stages(spec(data, None), 60)
    buffer = Buffer.from_episodes(data, normaliser, needs(stages))
    training = loop.fit(stages, buffer, stats(buffer), (0,), log_every=20, mesh=mesh)
    logged = [progress.metrics["policy/loss"].item() for progress in training if progress.metrics]
    assert logged[-1] < 0.5 * logged[0]


# --- the site as a whole ---


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """(folder of the built site, what was warned of)."""
    pytest.importorskip("sphinx", reason="needs the extra docs: pip install -e '.[docs]'")
    pytest.importorskip("myst_parser", reason="needs the extra docs: pip install -e '.[docs]'")
    pytest.importorskip("furo", reason="needs the extra docs: pip install -e '.[docs]'")
    from sphinx.application import Sphinx

    folder = tmp_path_factory.mktemp("site")
    told = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of what MyST uses of Sphinx; Sphinx's own are told
        app = Sphinx(DOCS, DOCS, folder / "html", folder / "trees", "html", status=None, warning=told, freshenv=True)
        app.builder.search = False  # nobody searches here, and the index takes a fifth of the time
        app.build()
    return folder / "html", told.getvalue()


def test_the_site_is_built_without_a_warning(site):
    _, told = site
    assert not told


def test_every_agent_has_a_page_of_its_settings_presets_and_results(site):
    folder, _ = site
    built = {path.stem for path in (folder / "agents").glob("*.html")}
    assert built == {*REGISTRY, "index"}
    for name, entry in REGISTRY.items():
        method = registry.named(entry.module)
        codes = _codes((folder / "agents" / f"{name}.html").read_text())
        assert {field.name for field in fields(method.config)} <= codes, name
        assert set(method.presets) <= codes, name
    text = TEXT.sub(" ", (folder / "agents" / "bc.html").read_text())
    assert "70.5 [31.1, 110.0] (3)" in text and "0.7825 [0.7777, 0.7872] (3)" in text
    assert "sac-rnd, beta 0" not in text


def test_no_page_needs_the_network_and_no_link_leads_nowhere(site):
    folder, _ = site
    texts = {page.resolve(): page.read_text() for page in folder.rglob("*.html")}
    anchors = {page: set(re.findall(r' id="([^"]+)"', text)) for page, text in texts.items()}
    for page, text in texts.items():
        assert not re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*\"", text), page
        for target in set(re.findall(r" (?:href|src)=\"([^\"]+)\"", text)):
            path, _, anchor = unescape(target).partition("#")
            if ":" in path:
                continue
            found = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            assert found.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors[found], f"{page.name}: {target}"


def _codes(text):
    """Everything that a page shows as code."""
    return {unescape(TEXT.sub("", code)) for code in re.findall(r"<code[^>]*>(.*?)</code>", text, re.DOTALL)}
