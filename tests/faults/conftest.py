"""``--campaign``: the fault tests in full, which write what they count to ``results/``.

python -m pytest tests/faults/test_kills.py --campaign
"""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "av", "ve-fairseq", "deepspeed", "hypothesis")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="fault tests in full, recorded")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--campaign", False):
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.fixture(scope="session")
def campaign(pytestconfig) -> bool:
    """Whether the counts of docs/reliability.md are made anew, which takes up to an hour."""
    return pytestconfig.getoption("--campaign", False)


@pytest.fixture
def record(request, campaign) -> Callable[[str, dict], None]:
    """Called with a name and its counts; a campaign puts them into the test file's result."""
    file = request.path
    path = RESULTS / f"{file.stem.removeprefix('test_')}.json"

    def write(name: str, found: dict) -> None:
        print(name, found)
        if campaign:
            result = json.loads(path.read_text()) if path.exists() else {"measured": {}}
            result["command"] = f"python -m pytest tests/faults/{file.name} --campaign"
            result["machine"] = machine()
            result["measured"][name] = found
            path.write_text(json.dumps(result, indent=1) + "\n")

    return write


def machine() -> dict[str, str]:
    """Date and versions."""
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in PACKAGES if name in installed}
    today = datetime.date.today().isoformat()
    return {"date": today, "python": platform.python_version(), **versions}
