"""Texts that attack: the report's HTML, and the YAML of fairseq's Hydra command."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import hydra
import pytest
from hydra.errors import InstantiationException

from tests import warm
from tests.commands import ROOT, environment
from tests.corpora import write_jsonl
from tests.reports import page_of

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</ScRiPt ><svg/onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "javascript:alert(1)",
    "<a href=javascript:alert(1)>x</a>",
    "<a href='java\tscript:alert(1)'>x</a>",
    "data:text/html,<script>alert(1)</script>",
    "<meta http-equiv=refresh content='0;url=//127.0.0.1'>",
    "<base href=//127.0.0.1/>",
    "<link rel=stylesheet href=//127.0.0.1/x.css>",
    "</style><style>*{display:none}</style>",
    "<!--<script>",
    "--><b>x</b>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{ 7 * 7 }} {% for x in y %} ${7*7}",
    "\u2028\u2029alert(1)//",
    "<details open ontoggle=alert(1)>\x00<object data=//127.0.0.1>",
)


class Structure(HTMLParser):
    """The elements of a page, each with the names of its attributes, as a browser sees them."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", ()))


def report_of(folder: Path, texts: list[str]) -> str:
    """A report of captions and answers in which each text stands wherever a file can put one."""
    names = [f"{number} {text}" for number, text in enumerate(texts)]
    given = [{"id": n, "prediction": t, "score": -1.0} for n, t in zip(names, texts, strict=True)]
    right = [{"id": n, "references": [t, t]} for n, t in zip(names, texts, strict=True)]
    write_jsonl(folder / "captions" / "predictions.jsonl", *given)
    write_jsonl(folder / "captions" / "references.jsonl", *right)
    return page_of(folder)


def test_of_25_hostile_texts_none_becomes_a_part_of_the_page(tmp_path):
    assert len(PAYLOADS) == 25
    harmless = report_of(tmp_path / "a", [f"text {number}" for number in range(len(PAYLOADS))])
    hostile = report_of(tmp_path / "b", list(PAYLOADS))
    assert Structure(hostile).elements == Structure(harmless).elements
    # They are shown: each is a string of the page's data, which is JSON.
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', hostile, re.DOTALL)
    shown = json.dumps([json.loads(block) for block in blocks])
    assert all(json.dumps(payload)[1:-1] in shown for payload in PAYLOADS)


# --- configurations -------------------------------------------------------------------------------

CALL = "{{_target_: os.system, _args_: [touch {marker}]}}"
CONFIGS = {  # kind: (text, why it is refused)
    "a python tag": (
        "x: !!python/object/apply:os.system ['touch {marker}']\n",
        "could not determine a constructor for the tag",
    ),
    "a callback": (f"hydra:\n  callbacks:\n    x: {CALL}\n", "Target 'os.system' is blocklisted"),
    "a launcher": (f"hydra:\n  launcher: {CALL}\n", "Key '_args_' not in 'BasicLauncherConf'"),
    "a task": (
        f"task: {CALL.replace('{{', '{{_name: video_translate, ')}\n",
        "Key '_target_' not in 'VideoTranslateTaskConfig'",
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_of_fairseqs_hydra_command_runs_nothing(tmp_path, kind):
    text, why = CONFIGS[kind]
    marker, output = tmp_path / "ran", tmp_path / "output"
    (tmp_path / "evil.yaml").write_text(text.format(marker=marker))
    command = ["-m", "fairseq_cli.hydra_train", "--config-dir", str(tmp_path)]
    command += ["--config-name", "evil", f"hydra.run.dir={tmp_path}/run"]
    command += [f"+common.user_dir={ROOT / 'user_dir'}"]
    process = warm.start(command, output, environment(), tmp_path)
    process.join(120)
    assert process.exitcode == 1 and why in output.read_text()
    assert not marker.exists()


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.run"])
def test_the_hydra_that_is_required_refuses_to_call_such_a_target(tmp_path, target):
    """CVE-2026-68508, of hydra-core before 1.3.4."""
    assert '"hydra-core>=1.3.4"' in (ROOT / "setup.py").read_text()
    with pytest.raises(InstantiationException, match="blocklisted"):
        hydra.utils.instantiate({"_target_": target, "_args_": [f"touch {tmp_path}/ran"]})
    assert not (tmp_path / "ran").exists()
