"""Every adapter error has its own code and a row in the documentation."""

from pathlib import Path

from cluster.errors import AdapterError, error_from_code

DOCUMENT = Path(__file__).parents[4] / "docs" / "adapters.md"
ELSEWHERE = {"adapter_load_failed"}  # of a running replica: docs/http-api.md


def _below(cls: type[AdapterError]) -> list[type[AdapterError]]:
    return [found for sub in cls.__subclasses__() for found in (sub, *_below(sub))]


def test_codes_are_unique_and_documented():
    classes = _below(AdapterError)
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes)
    text = DOCUMENT.read_text(encoding="utf-8")
    for cls in classes:
        if cls.code not in ELSEWHERE:
            assert f"| `{cls.code}` | {cls.status} |" in text
        assert type(error_from_code(cls.code, "x")) is cls
