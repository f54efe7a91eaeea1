"""Schemas of answers. They name what a client reads; more may be there."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def or_null(schema: Schema) -> Schema:
    """Return a schema that allows null as well."""
    return {"anyOf": [schema, {"type": "null"}]}


def member(required: dict[str, Schema], **optional: Schema) -> Schema:
    """Return the schema of an object with members that are always there, and others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
    }


def listing(items: Schema) -> Schema:
    """Return the schema of a list in OpenAI's form."""
    return member({"object": {"const": "list"}, "data": list_of(items)})


FINISH_REASON = or_null({"enum": ["stop", "length"]})
BYTES = or_null(list_of({"type": "integer", "minimum": 0, "maximum": 255}))
TOKEN = {"token": TEXT, "logprob": NUMBER, "bytes": BYTES}
MIXTURE = list_of(member({"name": TEXT, "weight": NUMBER, "digest": TEXT}))


def _answer(kind: str, choice: Schema, usage: dict[str, Schema]) -> Schema:
    return member(
        {
            "id": TEXT,
            "object": {"const": kind},
            "created": COUNT,
            "model": TEXT,
            "choices": list_of(choice),
            **usage,
        }
    )


def answer_schemas() -> dict[str, Schema]:
    """Return the schemas of answers, by name."""
    chat_logprobs = or_null(
        member(
            {
                "content": list_of(member({**TOKEN, "top_logprobs": list_of(member(TOKEN))})),
                "refusal": {"type": "null"},
            }
        )
    )
    text_logprobs = or_null(
        member(
            {
                "tokens": list_of(TEXT),
                "token_logprobs": list_of(or_null(NUMBER)),
                "top_logprobs": list_of(
                    or_null({"type": "object", "additionalProperties": NUMBER})
                ),
                "text_offset": list_of(COUNT),
            }
        )
    )
    message = member({"role": {"const": "assistant"}, "content": TEXT, "refusal": {"type": "null"}})
    usage = {"usage": ref("Usage")}
    card = member({"object": {"const": "adapter"}, "name": TEXT, "state": TEXT})
    return {
        "Error": member(
            {"error": member({"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": TEXT})}
        ),
        "Usage": member(
            {
                "prompt_tokens": COUNT,
                "completion_tokens": COUNT,
                "total_tokens": COUNT,
                "prompt_tokens_details": member({"cached_tokens": COUNT}),
            }
        ),
        "ChatCompletion": _answer(
            "chat.completion",
            member(
                {
                    "index": COUNT,
                    "message": message,
                    "logprobs": chat_logprobs,
                    "finish_reason": FINISH_REASON,
                },
                explain=ANY_OBJECT,
            ),
            usage,
        ),
        "Completion": _answer(
            "text_completion",
            member(
                {
                    "index": COUNT,
                    "text": TEXT,
                    "logprobs": text_logprobs,
                    "finish_reason": FINISH_REASON,
                },
                explain=ANY_OBJECT,
            ),
            usage,
        ),
        "Decision": member(
            {
                "id": TEXT,
                "object": {"const": "routing.decision"},
                "source": {"enum": ["explicit", "stored", "computed", "fallback"]},
                "router": TEXT,
                "router_version": TEXT,
                "granularity": TEXT,
                "mixture": MIXTURE,
                "scores": list_of(member({"name": TEXT, "probability": NUMBER, "kept": FLAG})),
                "created_at": NUMBER,
                "expires_at": NUMBER,
            },
            store=TEXT,
            explain=ANY_OBJECT,
        ),
        "Model": member(
            {
                "id": TEXT,
                "object": {"const": "model"},
                "created": COUNT,
                "owned_by": TEXT,
                "root": TEXT,
                "parent": or_null(TEXT),
                "max_model_len": COUNT,
            },
            description=or_null(TEXT),
            rank=COUNT,
        ),
        "ModelList": listing(ref("Model")),
        "Status": member({"status": TEXT}, replicas=COUNT),
        "Version": member({"version": TEXT}),
        "Adapter": card,
        "AdapterVersion": member(
            {"object": {"const": "adapter.version"}, "version": TEXT, "state": TEXT}
        ),
        "AdapterList": member(
            {
                "object": {"const": "list"},
                "data": list_of(ref("Adapter")),
                "other_versions": list_of(ref("AdapterVersion")),
                "registry": ANY_OBJECT,
            }
        ),
        "AdapterDeleted": member(
            {
                "object": {"const": "adapter.deleted"},
                "name": TEXT,
                "deleted": FLAG,
                "freed": list_of(TEXT),
                "waiting": list_of(ref("AdapterVersion")),
            }
        ),
        "AdapterVerified": member(
            {"object": {"const": "adapter.verified"}, "version": TEXT, "intact": FLAG}
        ),
        "Router": member(
            {"object": {"const": "router"}, "name": TEXT, "kind": TEXT, "state": TEXT}
        ),
        "RouterList": listing(ref("Router")),
        "RouterDeleted": member(
            {"object": {"const": "router.deleted"}, "name": TEXT, "deleted": FLAG}
        ),
        "Policy": member(
            {
                "object": {"const": "policy"},
                "version": COUNT,
                "text": TEXT,
                "effective": ANY_OBJECT,
                "following": member({"fronts": ANY_OBJECT, "controller": or_null(COUNT)}),
                "error": or_null(TEXT),
            }
        ),
        "PolicyApplied": member(
            {
                "object": {"const": "policy.applied"},
                "version": COUNT,
                "changed": FLAG,
                "warnings": list_of(ANY_OBJECT),
            }
        ),
        "PolicyList": listing(member({"version": COUNT, "author": TEXT, "message": TEXT})),
        "PolicyVersion": member(
            {"object": {"const": "policy.version"}, "version": COUNT, "text": TEXT}
        ),
        "Pick": ANY_OBJECT,
        "Placement": ANY_OBJECT,
        "CostModel": ANY_OBJECT,
        "Residency": member({"replicas": list_of(ANY_OBJECT)}),
        "Integrity": ANY_OBJECT,
        "ClusterStatus": member({"version": TEXT, "model": TEXT}),
    }
