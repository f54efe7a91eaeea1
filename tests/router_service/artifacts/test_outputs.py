"""Folders for results: tried before the work, claimed, replaced as a whole."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from router_service.artifacts.outputs import (
    CHECKPOINT_FILE,
    check_alias,
    check_file,
    check_folder,
    claim_folder,
    drop_checkpoint,
    writing,
)

ADAPTER, ROUTER = "adapter_model.safetensors", "router.json"


def unusable(tmp_path: Path) -> tuple[Path, ...]:
    file = tmp_path / "file"
    file.touch()
    return Path("/proc/braid-result"), file, file / "sub", tmp_path / ("x" * 300)


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    for out in unusable(tmp_path):
        with pytest.raises(ConfigError) as refusal:
            check_folder(out)
        assert refusal.value.message.startswith("out: expected a folder that can be written, found")
        assert str(out) in refusal.value.message
        with pytest.raises(ConfigError, match="out: expected a folder"), writing(out):
            pass


def test_a_trial_leaves_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    check_file(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").write_text("as it was")
    check_folder(tmp_path)
    check_file(tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "as it was"


@pytest.mark.parametrize("name", ["", "none/report.json"])
def test_what_cannot_be_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="out: expected a file that can be written, found"):
        check_file(tmp_path / name)


@pytest.mark.parametrize(
    ("there", "resume", "message"),
    [
        ((ADAPTER,), False, "holds an adapter already; --overwrite replaces it"),
        ((ROUTER,), None, "holds a router already; --overwrite replaces it"),
        (
            (ADAPTER,),
            True,
            "the training is finished, it holds an adapter; train it again with --overwrite",
        ),
        (
            (CHECKPOINT_FILE,),
            False,
            "holds an interrupted training: continue with --resume, or start over with --overwrite",
        ),
        ((CHECKPOINT_FILE,), None, "holds an interrupted training: start over with --overwrite"),
    ],
)
def test_what_is_there_is_not_replaced_unasked(
    tmp_path: Path, there: tuple[str, ...], resume: bool | None, message: str
) -> None:
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=message):
        claim_folder(tmp_path, overwrite=False, resume=resume)
    claim_folder(tmp_path, overwrite=True, resume=resume)


def test_an_interrupted_training_goes_on_beside_the_result_that_it_replaces(tmp_path: Path) -> None:
    (tmp_path / ADAPTER).touch()
    (tmp_path / CHECKPOINT_FILE).touch()
    claim_folder(tmp_path, overwrite=False, resume=True)


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    check_folder(tmp_path / "x" / "..")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="a folder of its own"):
        claim_folder(tmp_path / "x" / "..", overwrite=True, reads=[tmp_path])


def test_a_result_of_another_kind_goes_and_files_of_others_stay(tmp_path: Path) -> None:
    stale = ["adapter_config.json", ADAPTER, "manifest.json", ROUTER, "router.safetensors"]
    (tmp_path / "encoder").mkdir()
    for name in [*stale, "encoder/tokenizer.json", "router.json.partial", CHECKPOINT_FILE]:
        (tmp_path / name).write_text("old")
    (tmp_path / "README.md").write_text("mine")
    with writing(tmp_path):
        assert (tmp_path / CHECKPOINT_FILE).exists()
        (tmp_path / ROUTER).write_text("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "README.md": "mine",
        ROUTER: "new",
    }


def test_an_encoder_folder_with_other_files_stays(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "notes.txt").touch()
    with writing(tmp_path):
        pass
    assert (tmp_path / "encoder" / "notes.txt").exists()


def test_a_dropped_checkpoint_takes_an_empty_folder_along(tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CHECKPOINT_FILE).touch()
    (tmp_path / "full" / "mine").touch()
    for name in ("empty", "full"):
        drop_checkpoint(tmp_path / name)
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "full",
        "full/mine",
    ]


@pytest.mark.parametrize("alias", ["", "a b", "../x", "auto", "Base", "x" * 65, "é"])
def test_a_name_that_no_adapter_can_have(alias: str) -> None:
    with pytest.raises(ConfigError, match="alias: expected the name of an adapter"):
        check_alias(alias, "alias")
    check_alias("forms-2.1_x", "alias")
