"""Typed configuration of every part, and the only place that reads the environment.

Each component receives its own section; unknown keys are errors everywhere.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Section(BaseModel):
    """Base of all sections: frozen, and a misspelt key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


CPU_KV_BLOCKS = 1024
VLLM_BLOCK_SIZE = 32


class VllmConfig(Section):
    """Sets what vLLM alone has, of an engine of kind "vllm"."""

    python: Path | None = None
    """The Python of its environment; unset: where ``braid engine install vllm`` makes it."""
    kv_bytes: Annotated[int, Field(ge=1)] | None = None
    """Memory of the KV cache, in place of ``kv_blocks``. Where neither is set, a GPU gives it what
    is free."""
    options: dict[str, Any] = {}
    """More of vLLM's own engine arguments, by name, such as ``quantization``; unknown ones and
    those that fields here set are refused."""


class EngineConfig(Section):
    """One replica's engine."""

    kind: Literal["braid", "vllm"] = "braid"
    """"braid" is the project's own engine; "vllm" runs vLLM in a process and an environment of its
    own, which ``braid engine install vllm`` makes. docs/decisions/0016 has the differences."""
    vllm: VllmConfig = VllmConfig()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numbers of the base model. auto: bfloat16 on a GPU (float16 on one that lacks it), float32 on
    a CPU."""
    quantize: Literal["none", "int8"] = "none"
    """Weights of the base model; adapters and everything else stay in ``dtype``. CPU only."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads for tensor work; 0 leaves the library's choice."""
    max_model_len: Annotated[int, Field(ge=16)] = 2048
    """Longest prompt plus completion, in tokens; never above the model's own limit."""
    block_size: Annotated[int, Field(ge=1, le=256)] = 16
    """Tokens per KV block. Unset, kind "vllm" has blocks of 32: its CPU kernels want no others."""
    kv_blocks: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """KV blocks per replica: ``kv_blocks * block_size`` tokens in all. auto: what fits into a GPU's
    free memory once all else has its room, and 1024 on a CPU."""
    max_batch_size: Annotated[int, Field(ge=1)] = 32
    """Sequences decoded together."""
    max_batch_tokens: Annotated[int, Field(ge=16)] = 512
    """Tokens computed in one step, prefill and decode together."""
    max_queued: Annotated[int, Field(ge=0)] = 1024
    """Requests that may wait for admission on one replica. With fairness "adapter" a tenant that
    has less than its share of them waiting is let in beyond."""
    fairness: Literal["adapter", "fifo"] = "adapter"
    """The order of admission: "adapter" lets tenants take turns by tokens and weights, and within a
    tenant its adapter sets, and shares the rows of a full batch; "fifo" is the order of arrival,
    for all tenants together."""
    prefix_cache: bool = True
    cuda_graphs: bool = True
    """On a GPU, capture decode steps when the engine is built: a launch per step in place of some
    hundreds, for some seconds of start-up and the memory of one step."""

    @model_validator(mode="before")
    @classmethod
    def _default_block_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "vllm":
            return {"block_size": VLLM_BLOCK_SIZE} | values
        return values

    @model_validator(mode="after")
    def _kind_fits(self) -> "EngineConfig":
        if self.kind == "braid" and self.vllm != VllmConfig():
            raise ValueError("vllm: is for kind 'vllm'; set kind, or leave it out")
        if self.kind == "vllm" and self.quantize != "none":
            raise ValueError(
                "quantize: is for kind 'braid'; use vllm.options.quantization, or a quantised model"
            )
        return self

    def dtype_on(self, device: str) -> str:
        """Return the name of the dtype on "cpu" or "cuda"."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if device == "cuda" else "float32"

    @property
    def usual_kv_blocks(self) -> int:
        """Return the KV blocks that are asked for, or a CPU's."""
        return self.kv_blocks if isinstance(self.kv_blocks, int) else CPU_KV_BLOCKS


class AdapterConfig(Section):
    """One replica's adapter pool."""

    slots: Annotated[int, Field(ge=1)] = 16
    """Adapters on the device at once."""
    max_rank: Annotated[int, Field(ge=1, le=1024)] = 256
    """An adapter with a larger rank is refused. An adapter takes room by its own ranks, so a high
    limit costs nothing on a CPU, and on a GPU some MiB for the sums of a step."""
    memory_bytes: Annotated[int, Field(ge=1)] = 512 * 2**20
    """Device bytes for adapters."""
    host_bytes: Annotated[int, Field(ge=0)] = 512 * 2**20
    """Host memory of each replica for adapters as a slot holds them, so that a load to a slot is
    one copy and needs no disk; 0 keeps none."""
    share_window_s: Annotated[float, Field(gt=0)] = 60.0
    """Time for which a use counts for its tenant: while several tenants use adapters, none can
    push another's below its share of the slots and bytes, which goes by the tenants' weights."""
    max_mixture: Annotated[int, Field(ge=1)] = 8
    """Most adapters in one mixture."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type that adapters are stored in; auto is the engine's dtype, or bfloat16 with int8 weights.
    On a CPU bfloat16 halves what a step reads of them and rounds each of their values to 8 bits."""
    base_check: Literal["digest", "name", "shapes"] = "digest"
    """The facts that must agree if an adapter says which base it was trained on: the base's digest
    or, if it has none, the last part of the base's name on the hub. With "name" the same name is
    enough if digests differ, as they do between copies of one model of which one was quantised;
    with "shapes" neither is compared. Shapes are always compared."""
    load_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    failure_ttl_s: Annotated[float, Field(gt=0)] = 30.0
    """Time for which a failed load is remembered before it is tried again."""
    store_dir: Path | None = None
    """Content-addressed store of adapters added at run time; fronts, replicas and the controller
    must see the same folder. Unset: none can be added."""
    source_dir: Path | None = None
    """Folder under which an administrator may name a folder to add; unset: none."""
    source_urls: tuple[str, ...] = ()
    """Sources that adapters may be fetched from: schemes ("s3://") or prefixes of URLs."""
    source_hub: bool = True
    """True if adapters may be fetched from the Hugging Face hub."""
    hub_endpoint: Annotated[str, Field(pattern=r"^https?://[^/]+")] = "https://huggingface.co"
    """The hub, or a server that speaks like it."""
    max_source_bytes: Annotated[int, Field(ge=1)] = 1024 * 2**20
    """Most bytes received for one adapter, as its source sends them."""
    max_unpacked_bytes: Annotated[int, Field(ge=1)] = 1024 * 2**20
    """Most bytes that come out of one archive."""
    max_files: Annotated[int, Field(ge=1)] = 256
    """Most files in a folder or archive, whether they are used or not."""
    fetch_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Most time that one fetch may take."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Most time for which a source may send nothing."""
    orphan_grace_s: Annotated[float, Field(gt=0)] = 86400.0
    """Files in the store that the registry does not know are removed after so long."""
    acknowledgements: Annotated[int, Field(ge=0)] = 0
    """Replicas that must be able to serve a new version before its name points to it; 0 is all
    that are there."""
    add_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Most time that replicas may take to acknowledge it."""


class DecisionConfig(Section):
    """The decision store."""

    ttl_s: Annotated[float, Field(gt=0)] = 3600.0
    local_entries: Annotated[int, Field(ge=1)] = 4096
    """Decisions that each process keeps besides the store."""
    redis_timeout_s: Annotated[float, Field(gt=0)] = 0.25
    """A Redis command that takes longer counts as a failure."""
    breaker_reset_s: Annotated[float, Field(gt=0)] = 1.0
    """After a failure Redis is left alone this long before it is tried again."""


class RouterConfig(Section):
    """One named router."""

    name: str
    kind: str | None = None
    """One of the registry's kinds; unset: what the artifact says it is."""
    path: Path | None = None
    """Folder of the router's artifact; a kind that is not trained has none."""
    options: dict[str, Any] = {}
    """The kind's own settings; they override the artifact's. Unknown ones are refused by name."""


Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/?#\s]+)$")]


class TraceLogConfig(Section):
    """One file of a front in which every request is kept without its text, for simulations."""

    path: Path
    """Each further front of one machine inserts its number: ``trace-1.jsonl``."""
    max_bytes: Annotated[int, Field(ge=4096)] = 64 * 2**20
    """A file of this size becomes ``NAME.1``, and older ones move on by one."""
    files: Annotated[int, Field(ge=2, le=1000)] = 8
    """Files kept in all, the one that is written included."""


class FrontConfig(Section):
    """The HTTP side."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    replicas: Annotated[int, Field(ge=1)] = 1
    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Ray custom resources one front takes; they keep it on the nodes that offer them."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 4 * 2**20
    max_stop_strings: Annotated[int, Field(ge=0)] = 16
    max_logprobs: Annotated[int, Field(ge=0)] = 20
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """A request that runs longer ends with an error."""
    special_tokens_in_text: bool = False
    """Special tokens that are written in messages are tokens, as transformers reads them; by
    default they are text, so that no message can begin a turn."""
    cors_origins: tuple[Origin, ...] = ()
    """Web pages whose scripts may call: origins such as https://chat.example.com, or "*"."""
    view_interval_s: Annotated[float, Field(gt=0)] = 1.0
    """Time between two look-ups of the replicas; their load also arrives with every step."""
    metrics_open: bool = False
    """True if GET /metrics needs no key; else it needs an administrator's, or that of a tenant with
    ``metrics: true``."""
    tenants_interval_s: Annotated[float, Field(gt=0, le=3)] = 1.0
    """Time between two looks at the tenants file."""
    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Open at once in one front. An idle one makes room, else a new one is answered 503."""
    max_connections_per_address: Annotated[int, Field(ge=1)] = 1024
    """The same for one client address. Behind a proxy all clients have the proxy's."""
    header_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """A connection without a whole request head is closed after so long."""
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """A body, or a reader of an answer, that stands still for so long loses its connection."""
    trace_log: TraceLogConfig | None = None
    """Unset: no request is kept."""
    failed_keys_per_minute: Annotated[int, Field(ge=1)] = 60
    """Answered 401 for one client address; more are 429. A valid key passes all the same."""


class ReplicaConfig(Section):
    """The replica deployment."""

    replicas: Annotated[int, Field(ge=1)] = 1
    """Number of replicas if the operator's policy does not say."""
    num_cpus: Annotated[float, Field(ge=0)] = 0
    """Ray's logical CPUs per replica; 0 leaves placement to other resources."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """Ranks that one model is spread over, each with a GPU of its own; for engine.kind "vllm"."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Ray custom resources one replica takes."""
    host: str = "127.0.0.1"
    """Address the link server binds; "node" is the node's own address (several machines)."""


class ControllerConfig(Section):
    """The placement controller."""

    interval_s: Annotated[float, Field(gt=0)] = 1.0
    policy_file: Path | None = None
    """Operator's placement and scaling policy; read again when it changes."""
    cost_profile: Path | None = None
    """Costs to begin with, as `braid bench profile` wrote them. Unset: those that a controller was
    given before for this model, engine and device, else defaults."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Ray custom resources the controller takes; they tie it to nodes that have the models."""


class AppConfig(Section):
    """Everything the application is built from; the ``args`` of a Serve config file."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Hub id or folder of the base model."""
    cache_dir: Path | None = None
    """Folder in which fetched base models are kept; unset is the user's cache folder."""
    adapters_dir: Path | None = None
    """Folder of PEFT folders; alias = folder name."""
    tenants_file: Path | None = None
    """Tenants, hashes of their keys and their rights; required."""
    redis_url: SecretStr | None = None
    """Unset: taken from the environment (BRAID_REDIS_URL)."""
    signing_key: SecretStr | None = None
    """Unset: taken from the environment (BRAID_SIGNING_KEY)."""
    tenant_isolation: bool = True
    """KV blocks are never shared between tenants."""
    routers: tuple[RouterConfig, ...] = ()
    """The first one answers ``auto``."""
    engine: EngineConfig = EngineConfig()
    adapters: AdapterConfig = AdapterConfig()
    decisions: DecisionConfig = DecisionConfig()
    front: FrontConfig = FrontConfig()
    replica: ReplicaConfig = ReplicaConfig()
    controller: ControllerConfig = ControllerConfig()

    @model_validator(mode="after")
    def _ranks_have_an_engine(self) -> "AppConfig":
        if self.replica.tensor_parallel > 1 and self.engine.kind != "vllm":
            raise ValueError(
                f"replica.tensor_parallel: is {self.replica.tensor_parallel}, and engine.kind "
                f"{self.engine.kind!r} computes on one device; set engine.kind to 'vllm'"
            )
        return self


class Settings(BaseSettings):
    """The environment, read once."""

    model_config = SettingsConfigDict(env_prefix="BRAID_", extra="ignore")

    redis_url: SecretStr | None = None
    """BRAID_REDIS_URL: an existing Redis or Valkey; unset starts an embedded one."""
    state_dir: Path | None = None
    """BRAID_STATE_DIR: keys, pid file, logs."""
    cache_dir: Path | None = None
    """BRAID_CACHE_DIR: base models."""
    engines_dir: Path | None = None
    """BRAID_ENGINES_DIR: engines with environments of their own."""
    signing_key: SecretStr | None = None
    """BRAID_SIGNING_KEY: signs decisions; unset uses one kept in the state folder."""
    hub_token: SecretStr | None = None
    """BRAID_HUB_TOKEN: for private repositories of adapters; sent to the hub's host alone."""
    api_key: SecretStr | None = None
    """BRAID_API_KEY: the key the command-line client sends."""
    log_file: Path | None = None
    """BRAID_LOG_FILE: where the cluster's processes write standard output and error; unset leaves
    both as they were started."""


def cache_folder(settings: Settings) -> Path:
    """Return the folder of fetched base models: BRAID_CACHE_DIR, else the user's cache folder."""
    return settings.cache_dir or _user_folder("XDG_CACHE_HOME", ".cache")


def engines_folder(settings: Settings) -> Path:
    """Return the folder of engines' environments: BRAID_ENGINES_DIR, else in the user's cache
    folder."""
    found = settings.engines_dir or _user_folder("XDG_CACHE_HOME", ".cache") / "engines"
    return found.expanduser().absolute()


def state_folder(settings: Settings) -> Path:
    """Return the folder of keys and logs: BRAID_STATE_DIR, else the user's state folder."""
    return settings.state_dir or _user_folder("XDG_STATE_HOME", ".local/state")


def _user_folder(variable: str, fallback: str) -> Path:
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / fallback) / "braid"
