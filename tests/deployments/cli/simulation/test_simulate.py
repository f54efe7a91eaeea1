"""`braid simulate` on small traces, with and without a cluster to ask."""

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from cluster.simulation.trace import TRACE_FORMAT
from deployments.cli.simulation.cluster_facts import read_cluster
from deployments.cli.toolkit.client import admin_client
from deployments.local.local_state import StateDir

SMALL = ("--trace", "constant,duration=20,rate=1", "--seeds", 1, "--workers", 1)
Braid = Callable[..., Any]


def columns(document: dict[str, Any]) -> list[str]:
    return [column["name"] for column in document["columns"]]


def figure(document: dict[str, Any], section: str, name: str, column: str) -> float:
    (row,) = [r for r in document["rows"] if (r["section"], r["name"]) == (section, name)]
    return float(row["columns"][column]["mean"])


@pytest.mark.slow
def test_a_first_report_needs_no_option_but_a_trace(braid: Braid) -> None:
    result = braid("simulate", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "Not calibrated" in result.stdout
    assert "default costs" in result.stdout
    assert "ray-serve-fitted" in result.stdout
    assert "simulating" in result.stderr


@pytest.mark.slow
def test_files_have_every_figure_and_the_same_bytes_each_time(braid: Braid, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        out = tmp_path / name
        result = braid("simulate", *SMALL, "--baselines", "off,random", "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout) == json.loads((out / "report.json").read_text())
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0] == written[1]
    assert {"report.md", "report.json", "course.png", "ttft.png", "costs.png"} <= set(written[0])
    document = json.loads(written[0]["report.json"])
    assert columns(document) == ["default", "off", "random"]
    assert figure(document, "adapters", "moved by the controller", "random") == 0


@pytest.mark.slow
def test_processes_give_what_one_gives(braid: Braid) -> None:
    trace = ("--trace", "constant,duration=10,rate=1", "--seeds", 2, "--baselines", "off")
    one, two = (braid("simulate", *trace, "--workers", workers, "--json") for workers in (1, 2))
    assert one.exit_code == two.exit_code == 0, two.stderr
    assert json.loads(one.stdout) == json.loads(two.stdout)


@pytest.mark.slow
def test_policies_and_steps_of_a_sweep_are_columns(braid: Braid, tmp_path: Path) -> None:
    policy = tmp_path / "wide.yaml"
    policy.write_text("replicas: {min: 1, max: 5}\n")
    result = braid(
        "simulate", policy, *SMALL, "--baselines", "none", "--json",
        "--sweep", "replicas.target=0.5:0.9:0.2",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    steps = [f"replicas.target={value}" for value in ("0.5", "0.7", "0.9")]
    assert columns(json.loads(result.stdout)) == ["default", "wide", *steps]


@pytest.mark.slow
def test_a_recorded_log_is_replayed_as_it_is(braid: Braid, tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    request = {
        "tenant": "acme", "set": ["sql"], "prompt_tokens": 8, "generated_tokens": 4,
        "max_tokens": 4,
    }  # fmt: skip
    lines = [{"format": TRACE_FORMAT}, *({"t": float(n), **request} for n in range(5))]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = braid("simulate", "--log", log, "--workers", 1, "--baselines", "none", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["seeds"] == [0]
    assert figure(document, "all requests", "requests", "default") == 5


EMPTY = Path(__file__).with_name("empty.jsonl")


def refused(*arguments: object, words: str) -> Any:
    return pytest.param(arguments, words, id=words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        refused("--trace", "constnt", words='trace "constnt": not known; did you mean "constant"?'),
        refused("--trace", "constant,rat=3", words='did you mean "rate"?'),
        refused("--trace", "constant", "--log", "x", words="--trace and --log: expected one trace"),
        refused("--log", "no.jsonl", words="no.jsonl"),
        refused("--log", EMPTY, words="empty.jsonl: no request; name another trace"),
        refused("--import", "azure", "no.csv", words="no.csv: cannot be read"),
        refused("--baselines", "randm", words='"randm" is not one; did you mean "random"?'),
        refused("--baselines", "zzz", words="expected all, none, or some of off, random"),
        refused("--baselines", "", words='--baselines: "" is not one'),
        refused("--model", "current", words="no cluster was asked; start one with `braid up`"),
        refused("--model", "no.json", words="no.json"),
        refused("--sweep", "replicas.target", words="expected PATH=LOW:HIGH:STEP or PATH=A,B,C"),
        refused("--sweep", "replicas.target=1:0:.1", words="expected PATH=LOW:HIGH:STEP"),
        refused("--sweep", "replicas.target=.1:.9:0", words="expected PATH=LOW:HIGH:STEP"),
        refused("--sweep", "replicas.target=nan:1:1", words="expected PATH=LOW:HIGH:STEP"),
        refused("--sweep", "replicas.target=.1:.9:.001", words="expected at most 50"),
        refused("--sweep", "replicas.tarket=1,2", words='did you mean "target"?'),
        refused("--sweep", "replicas.max=0", words="replicas.max"),
        refused("--sweep", "replicas.max=2,2", words="two columns are called 'replicas.max=2'"),
        refused("--replicas", "7", words="--replicas 7: no policy here allows more than 2"),
        refused("no.yaml", words="no.yaml"),
        refused("--url", "http://127.0.0.1:9", "--key", "k", words="no server answers"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(
    braid: Braid, arguments: tuple[object, ...], words: str
) -> None:
    result = braid("simulate", *arguments)
    assert result.exit_code == 1
    assert words in " ".join(result.stderr.split())
    assert "simulating" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--engine", "slow"),
        ("--seeds", "0"),
        ("--slots", "0"),
        ("--slots", "100000000"),
        ("--import", "gcp", "x.csv"),
    ],
)
def test_choices_are_checked_by_the_option(braid: Braid, arguments: tuple[str, ...]) -> None:
    result = braid("simulate", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_a_file_is_not_a_place_for_a_report(braid: Braid, tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.write_text("kept")
    result = braid("simulate", *SMALL, "--out", out)
    assert result.exit_code == 1
    assert "is not a directory" in result.stderr
    assert out.read_text() == "kept"


@pytest.mark.parametrize("name", ["report.md", "report.json", "course.png"])
def test_a_file_in_the_way_of_the_report_is_named_before_the_run(
    braid: Braid, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    result = braid("simulate", *SMALL, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{tmp_path / 'out' / name} is there and cannot be written" in result.stderr
    assert "simulating" not in result.stderr


def test_a_command_that_fails_makes_no_folder(braid: Braid, tmp_path: Path) -> None:
    trace = ("--log", tmp_path / "none.jsonl")
    result = braid("simulate", *trace, "--out", tmp_path / "above" / "out")
    assert result.exit_code == 1
    assert not (tmp_path / "above").exists()


def value(number: float) -> dict[str, float]:
    return {"value": number}


MODEL = {
    "step": {
        "coefficients": {
            "per_step": value(0.5),
            "per_prefill_token": value(0.0),
            "per_decode_row": value(0.0),
            "per_context_block": value(0.0),
            "per_adapter_byte": value(0.0),
            "per_rank_row": value(0.0),
        }
    },
    "loads": {
        tier: {"coefficients": {"latency": value(0.01), "per_byte": value(0.0)}}
        for tier in ("host", "disk")
    },
    "start": {"seconds": 5.0},
}


@pytest.fixture
def asked_server(server: Any) -> Any:
    """A server whose steps take half a second, with one adapter that the trace asks for."""
    replica = {
        "slots_total": 3, "adapter_bytes_limit": 10**8, "host_bytes_limit": 0,
        "kv_blocks_total": 64, "max_batch_size": 4, "max_model_len": 512,
    }  # fmt: skip
    adapter = {
        "name": "a0000", "owner": "acme", "digest": "d" * 64, "rank": 8, "bytes": 1000,
    }  # fmt: skip
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=2, max=6)).model_dump(mode="json")
    tenants = [{"id": "acme", "weight": 3.0}, {"id": "tenant-1", "weight": 1.0}]
    status = {
        "replicas": [replica, replica], "adapters": [adapter], "placement": {"policy": policy},
        "tenants": tenants,
    }  # fmt: skip
    server.answer("GET", "/admin/v1/status", status)
    defaults = {"replicas": {"min": 2, "max": 2}}
    server.answer("GET", "/admin/v1/policy", {"defaults": defaults})
    server.answer("GET", "/admin/v1/model", MODEL)
    return server


@pytest.mark.slow
def test_a_cluster_gives_policy_costs_and_shape(braid: Braid, asked_server: Any) -> None:
    at = ("--url", asked_server.url, "--key", "k")
    result = braid("simulate", *SMALL, *at, "--baselines", "none", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert columns(document) == ["in force"]
    assert asked_server.url in document["setup"]["costs"]
    assert "2 replicas at the start, 3 slots each, batches of 4" in document["setup"]["cluster"]
    assert figure(document, "all requests", "TTFT p50", "in force") >= 0.5


def recorded_log(folder: Path, gap_s: float, **header: float) -> Path:
    """Write a log of 90 requests that one replica served."""
    request = {
        "tenant": "acme", "set": ["a0000@dddddddddddd"], "prompt_tokens": 32,
        "generated_tokens": 2, "max_tokens": 2, "replica": "r0", "tier_found": "device",
        "ttft": 0.6, "e2e": 1.2, "outcome": "ok",
    }  # fmt: skip
    lines: list[dict[str, Any]] = [{"format": TRACE_FORMAT, **header}]
    lines += [{"t": n * gap_s, **request} for n in range(90)]
    log = folder / "requests.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return log


@pytest.mark.slow
def test_a_recorded_log_among_the_policies_tells_the_error_of_the_simulator(
    braid: Braid, tmp_path: Path
) -> None:
    policy = tmp_path / "wide.yaml"
    policy.write_text("replicas: {min: 1, max: 5}\n")
    log = recorded_log(tmp_path, 0.5)
    result = braid("policy", "simulate", log, policy, "--baselines", "none", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert columns(document) == ["default", "wide"]
    (line,) = document["calibration"]["lines"]
    assert "and with nothing fitted: TTFT p50 -" in line
    assert document["calibration"]["too_far"]


@pytest.mark.slow
def test_a_policy_of_fewer_replicas_is_simulated_from_those_that_run(
    braid: Braid, asked_server: Any, tmp_path: Path
) -> None:
    """Of the four that run, the policy lets one stay, and those that leave cost nothing more."""
    status = json.loads(asked_server.answers["GET", "/admin/v1/status"][2])
    status["replicas"] *= 2
    asked_server.answer("GET", "/admin/v1/status", status)
    fewer = tmp_path / "fewer.yaml"
    fewer.write_text("replicas: {min: 1, max: 1, down: {drain: 0}}\n")
    trace = ("--trace", "constant,duration=200,rate=0.1", "--seeds", 1, "--workers", 1)
    at = ("--url", asked_server.url, "--key", "k")
    result = braid("policy", "simulate", fewer, *trace, *at, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert "4 replicas at the start" in document["setup"]["cluster"]
    four, one = (
        figure(document, "replicas", "replica-hours", name) for name in ("in force", "fewer")
    )
    assert one < four / 2


@pytest.mark.slow
def test_what_a_policy_leaves_out_is_filled_as_the_cluster_fills_it(
    braid: Braid, asked_server: Any, tmp_path: Path
) -> None:
    """Its defaults are two replicas, whatever is in force: without them one would do."""
    plain = tmp_path / "plain.yaml"
    plain.write_text("picking: {harm: 0.5}\n")
    at = ("--url", asked_server.url, "--key", "k", "--replicas", 1)
    result = braid("simulate", plain, *SMALL, *at, "--json")
    assert result.exit_code == 0, result.stderr
    assert figure(json.loads(result.stdout), "replicas", "most at once", "plain") == 2


@pytest.mark.slow
def test_a_report_says_what_it_rests_on(braid: Braid, asked_server: Any, tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text(
        'replicas: {schedule: [{from: "07:30", to: "19:00", zone: Asia/Tokyo, min: 2}]}\n'
        "adapters: [{adapter: a0001}, {adapter: a0000}]\n"
    )
    log = recorded_log(tmp_path, 0.5, start=1_796_025_600.0)
    result = braid("policy", "simulate", log, policy, "--workers", 1, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["setup"]["begins"] == "Mon 2026-11-30 08:00 UTC, Mon 17:00 in Asia/Tokyo"
    assert "no cluster was asked" in document["setup"]["weights"]
    (note,) = document["notes"]
    assert note.startswith('mine: adapters[0].adapter: no adapter "a0001"; did you mean "a0000"?')
    asked = braid(
        "simulate", *SMALL, "--baselines", "none", "--url", asked_server.url, "--key", "k"
    )
    said = " ".join(asked.stdout.split())
    assert "the trace does not say when; taken for Mon 2025-06-16 00:00 UTC" in said
    assert f"else the tenants file's at {asked_server.url}" in said


@pytest.mark.slow
def test_a_log_that_was_turned_over_and_packed_is_a_log(braid: Braid, tmp_path: Path) -> None:
    whole = recorded_log(tmp_path, 0.5, start=1_796_025_600.0)
    older, packed = tmp_path / "requests.jsonl.1", tmp_path / "requests.jsonl.2.gz"
    older.write_bytes(whole.read_bytes())
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    result = braid(
        "simulate", whole, older, packed, "--baselines", "none", "--workers", 1, "--json"
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert columns(document) == ["default"]
    assert figure(document, "all requests", "requests", "default") == 270


@pytest.mark.slow
def test_a_long_trace_says_that_parts_look_less_often(braid: Braid, tmp_path: Path) -> None:
    log = recorded_log(tmp_path, 90.0)
    result = braid("simulate", "--log", log, "--baselines", "none", "--workers", 1, "--json")
    assert result.exit_code == 0, result.stderr
    assert "looks each 10 s" in json.loads(result.stdout)["setup"]["cluster"]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "learnt"), [("current", True), ("default", False)])
def test_a_calibration_tells_where_the_costs_may_have_seen_the_log(
    braid: Braid, asked_server: Any, tmp_path: Path, model: str, learnt: bool
) -> None:
    log = recorded_log(tmp_path, 0.5)
    result = braid(
        "simulate", "--calibrate", log, "--model", model, "--baselines", "none", "--workers", 1,
        "--url", asked_server.url, "--key", "k",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert ("may have learnt its costs from the second half" in said) is learnt


def test_weights_are_those_of_the_tenants_file(asked_server: Any) -> None:
    with admin_client(asked_server.url, "k") as client:
        assert read_cluster(client).own_weights == {"acme": 3.0, "tenant-1": 1.0}


def test_adapters_are_known_by_the_names_in_trace_logs(asked_server: Any) -> None:
    with admin_client(asked_server.url, "k") as client:
        adapters = read_cluster(client).adapters
    assert adapters["a0000@dddddddddddd"] == adapters["a0000"] == adapters["d" * 64]


@pytest.mark.slow
def test_a_cluster_that_tells_no_costs_is_simulated_with_the_default_ones(
    braid: Braid, asked_server: Any
) -> None:
    asked_server.answer("GET", "/admin/v1/model", {"error": "the controller is away"})
    at = ("--url", asked_server.url, "--key", "k")
    result = braid("simulate", *SMALL, *at, "--baselines", "none", "--json")
    assert result.exit_code == 0, result.stderr
    assert "the default costs are used" in result.stderr
    assert "default costs" in json.loads(result.stdout)["setup"]["costs"]
    insisted = braid("simulate", *SMALL, *at, "--model", "current")
    assert insisted.exit_code == 1
    assert "the controller is away" in " ".join(insisted.stderr.split())


def test_a_cluster_without_its_controller_is_named(braid: Braid, asked_server: Any) -> None:
    status = {
        "replicas": [], "adapters": [], "tenants": [],
        "placement": {"error": "it does not answer"},
    }  # fmt: skip
    asked_server.answer("GET", "/admin/v1/status", status)
    result = braid("simulate", *SMALL, "--url", asked_server.url, "--key", "k")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "does not tell the policy in force (it does not answer)" in said


@pytest.mark.slow
def test_an_interruption_ends_every_process(state: StateDir) -> None:
    code = "from deployments.cli import main; main()"
    command = [
        sys.executable, "-c", code, "simulate", "--trace", "constant,duration=3600,rate=9",
        "--seeds", "4", "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    while len(children := watched.children(recursive=True)) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.decode().split()[-1] == "interrupted"
    assert "Traceback" not in said.decode()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
