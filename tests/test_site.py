"""The documents as a site: every link and heading is there, and the interface is documented."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.markdown import ROOT, documents

SITE = ("mkdocs", "material", "mkdocstrings")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with every warning as an error."""
    missing = [name for name in SITE if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


def test_every_page_is_on_the_site_and_in_its_menu(site):
    menu = (site / "index.html").read_text()
    for page in documents():
        at = page.with_name("index") if page.name == "README.md" else page.with_suffix("")
        assert (site / at).with_suffix(".html").is_file(), page
        assert f'href="{at}.html"' in menu or str(at) == "index", page


def test_a_page_loads_nothing_from_elsewhere(site):
    pages = [*site.rglob("*.html")]
    assert pages
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|link)\b[^>]*?(?:src|href)=\"?(\S+?)[\">]", page.read_text()
        )
        assert not [url for url in loaded if url.startswith(("http", "//"))], page


def test_the_interface_is_made_of_the_docstrings(site):
    text = (site / "docs" / "api.html").read_text()
    for name in ("from_pretrained", "caption", "answer", "rank", "index", "library"):
        assert f'id="vt_fairseq.inference.api.VideoTranslate.{name}"' in text, name
