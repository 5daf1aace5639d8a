"""The files of the site: every page of the project, and every file that a page links to.

mkdocs takes one folder. Pages link from ``docs/`` to README.md, the recipes and results that lie
outside of it, so that the site has the tree of the repository.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("*.md", "docs/*.md", "examples/**/*.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs: those of ``docs/`` go, those of the tree come."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted(site_files()):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def site_files() -> set[Path]:
    """Pages, and the files that they link to."""
    pages = {page for pattern in PAGES for page in ROOT.glob(pattern)}
    targets = {page.parent / name for page in pages for name in LINK.findall(page.read_text())}
    linked = {target.resolve() for target in targets if target.is_file()}
    return pages | {path for path in linked if path.is_relative_to(ROOT)}
