"""Every problem is named with its field, and no value is shown."""

import pytest
from pydantic import ValidationError

from cluster.config import AppConfig
from cluster.field_problems import all_problems
from deployments.serve_config import OverlayConfig


def test_every_problem_is_named_without_its_value() -> None:
    with pytest.raises(ValidationError) as caught:
        AppConfig.model_validate({"front": {"port": "s3cret"}, "sigining_key": "s3cret"})
    text = all_problems(caught.value)
    assert "front.port: " in text
    assert "sigining_key: " in text
    assert "s3cret" not in text.replace("sigining_key", "")


def test_a_problem_of_the_whole_document_has_a_name() -> None:
    with pytest.raises(ValidationError) as caught:
        OverlayConfig.model_validate(None)
    assert all_problems(caught.value, root="file").startswith("file: ")
