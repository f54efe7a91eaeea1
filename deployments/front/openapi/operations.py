"""The operations of the document: one row for each method of each path."""

from deployments.front.admin.adapter_wire import UploadParameters
from deployments.front.admin.pick_routes import PickQuery
from deployments.front.admin.router_routes import RouterBody
from deployments.front.http.query import OwnerQuery, RemoveQuery
from deployments.front.openapi.answer_schemas import ANY_OBJECT, Schema, ref
from deployments.front.openapi.api_operation import PLAIN, ApiOperation

ADAPTERS = "/admin/v1/adapters"
ROUTERS = "/admin/v1/routers"
POLICY = "/admin/v1/policy"

OPERATIONS = (
    ApiOperation(
        "post",
        "/v1/chat/completions",
        "Answer a conversation.",
        {200: "ChatCompletion"},
        body="ChatBody",
        streams=True,
    ),
    ApiOperation(
        "post",
        "/v1/completions",
        "Complete a prompt.",
        {200: "Completion"},
        body="CompletionBody",
        streams=True,
    ),
    ApiOperation("post", "/v1/route", "Decide only.", {200: "Decision"}, body="RouteBody"),
    ApiOperation("get", "/v1/decisions/{decision_id}", "Show a decision.", {200: "Decision"}),
    ApiOperation("get", "/v1/models", "List models.", {200: "ModelList"}),
    ApiOperation("get", "/v1/models/{name}", "Show a model.", {200: "Model"}),
    ApiOperation("get", "/health", "Say that the process lives.", {200: "Status"}, access="open"),
    ApiOperation(
        "get", "/ready", "Count the replicas.", {200: "Status", 503: "Status"}, access="open"
    ),
    ApiOperation("get", "/-/healthz", "As /ready.", {200: "Status", 503: "Status"}, access="open"),
    ApiOperation("get", "/version", "Say the version.", {200: "Version"}, access="open"),
    ApiOperation("get", "/openapi.json", "Show this document.", {200: "Document"}, access="open"),
    ApiOperation("get", "/metrics", "Show metrics.", {200: ""}, media=PLAIN, access="open"),
    ApiOperation(
        "get", "/admin/v1/placement", "Show the placement.", {200: "Placement"}, access="admin"
    ),
    ApiOperation("get", POLICY, "Show the policy in force.", {200: "Policy"}, access="admin"),
    ApiOperation(
        "put",
        POLICY,
        "Put another policy in force.",
        {200: "PolicyApplied"},
        body="PolicyBody",
        access="admin",
    ),
    ApiOperation(
        "get", f"{POLICY}/history", "List its versions.", {200: "PolicyList"}, access="admin"
    ),
    ApiOperation(
        "get",
        f"{POLICY}/versions/{{number}}",
        "Show one version.",
        {200: "PolicyVersion"},
        access="admin",
    ),
    ApiOperation(
        "get", "/admin/v1/model", "Show the costs in force.", {200: "CostModel"}, access="admin"
    ),
    ApiOperation(
        "get",
        "/admin/v1/pick",
        "Explain which replica a request would be given.",
        {200: "Pick"},
        query=PickQuery,
        access="admin",
    ),
    ApiOperation(
        "get", "/admin/v1/residency", "Show who holds what.", {200: "Residency"}, access="admin"
    ),
    ApiOperation(
        "get", "/admin/v1/integrity", "Check the books.", {200: "Integrity"}, access="admin"
    ),
    ApiOperation(
        "get", "/admin/v1/status", "Show everything.", {200: "ClusterStatus"}, access="admin"
    ),
    ApiOperation("get", ADAPTERS, "List adapters.", {200: "AdapterList"}, access="admin"),
    ApiOperation(
        "post",
        ADAPTERS,
        "Add or replace an adapter; of an archive, the query says what JSON says else.",
        {201: "Adapter"},
        body="AddBody",
        query=UploadParameters,
        archive=True,
        access="admin",
    ),
    ApiOperation(
        "get",
        f"{ADAPTERS}/{{name}}",
        "Show a name, or a version by its digest.",
        {200: "AdapterOrVersion"},
        query=OwnerQuery,
        access="admin",
    ),
    ApiOperation(
        "delete",
        f"{ADAPTERS}/{{name}}",
        "Remove a name, or a version by its digest.",
        {200: "AdapterDeleted", 202: "AdapterDeleted"},
        query=RemoveQuery,
        access="admin",
    ),
    ApiOperation(
        "post",
        f"{ADAPTERS}/{{name}}/switch",
        "Point a name to a version.",
        {200: "Adapter"},
        body="AliasBody",
        access="admin",
    ),
    ApiOperation(
        "post",
        f"{ADAPTERS}/{{name}}/rollback",
        "Point a name to what it pointed to before.",
        {200: "Adapter"},
        body="NameBody",
        access="admin",
    ),
    ApiOperation(
        "post",
        f"{ADAPTERS}/{{name}}/pin",
        "Keep a name's version on every replica.",
        {200: "Adapter"},
        body="PinBody",
        access="admin",
    ),
    ApiOperation(
        "post",
        f"{ADAPTERS}/{{name}}/verify",
        "Compare a version's files with its digest.",
        {200: "AdapterVerified"},
        query=OwnerQuery,
        access="admin",
    ),
    ApiOperation("get", ROUTERS, "List routers.", {200: "RouterList"}, access="admin"),
    ApiOperation(
        "post",
        ROUTERS,
        "Add or replace a router; of an archive, the query says what JSON says else.",
        {201: "Router"},
        body="RouterBody",
        query=RouterBody,
        archive=True,
        access="admin",
    ),
    ApiOperation("get", f"{ROUTERS}/{{name}}", "Show a router.", {200: "Router"}, access="admin"),
    ApiOperation(
        "delete",
        f"{ROUTERS}/{{name}}",
        "Remove a router.",
        {200: "RouterDeleted"},
        access="admin",
    ),
    ApiOperation(
        "post",
        "/v1/load_lora_adapter",
        "Add a shared adapter, as vLLM does.",
        {200: ""},
        body="VllmLoadBody",
        media=PLAIN,
        access="admin",
    ),
    ApiOperation(
        "post",
        "/v1/unload_lora_adapter",
        "Remove a shared adapter, as vLLM does.",
        {200: ""},
        body="VllmUnloadBody",
        media=PLAIN,
        access="admin",
    ),
)

EXTRA_SCHEMAS: dict[str, Schema] = {
    "Document": ANY_OBJECT,
    "AdapterOrVersion": {"anyOf": [ref("Adapter"), ref("AdapterVersion")]},
}
