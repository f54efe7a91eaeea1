"""Every error Braid raises on purpose.

BraidError                       server_error          500
├── ConfigError                  config_invalid        500   operator's file, flag or variable
├── ModelSourceError             model_source          500   base model cannot be had
├── AdapterError                 adapter_invalid       400   an adapter cannot be served
│   ├── AdapterUnsupported       adapter_unsupported   400   a PEFT feature refused by name
│   ├── AdapterMalformed         adapter_malformed     400   a file is missing, cut or inconsistent
│   ├── AdapterPickle            adapter_pickle        400   weights as a pickle
│   ├── AdapterWrongBase         adapter_wrong_base    400   made for another base model
│   ├── AdapterNotFinite         adapter_not_finite    400   NaN or infinity in a tensor
│   ├── AdapterRankTooHigh       adapter_rank_too_high 400   above the operator's rank limit
│   ├── AdapterTooLarge          adapter_too_large     413   above a byte limit
│   ├── AdapterTooManyFiles      adapter_too_many_files 413
│   ├── AdapterUnsafePath        adapter_unsafe_path   400   a link, device or way out
│   ├── AdapterDuplicateFile     adapter_duplicate_file 400  one name twice
│   ├── AdapterSourceError       adapter_source_failed 502   retryable
│   │   ├── AdapterSourceRefused adapter_source_refused 403  not on the operator's allow-list
│   │   ├── AdapterDriverMissing adapter_driver_missing 501  this scheme needs a package
│   │   ├── AdapterSourceNotFound adapter_source_not_found 404
│   │   ├── AdapterSourceTimeout adapter_source_timeout 504  retryable
│   │   └── AdapterSizeMismatch  adapter_size_mismatch 502   retryable; not as long as announced
│   ├── AdapterStoreError        adapter_store_failed  500   the store's disk failed
│   │   └── AdapterStoreFull     adapter_store_full    507   retryable
│   ├── AdapterNotStored         adapter_not_stored    404   no such version in the store
│   ├── AdapterCorrupt           adapter_corrupt       500   stored bytes are not the version's
│   ├── AdapterNotFound          adapter_not_found     404   not in the registry
│   ├── AdapterConflict          adapter_conflict      409   the name points elsewhere than expected
│   ├── AdapterInUse             adapter_in_use        409   pointed to or pinned, and not forced
│   ├── AdapterLoadFailed        adapter_load_failed   503   its bytes could not be brought in
│   └── AdapterCapacity          adapter_capacity      503   no room: others are leased
├── RouterError                  router_invalid        400   a router cannot be served
│   ├── RouterNotFound           router_not_found      404   not in the registry
│   ├── RouterConflict           router_conflict       409   the name exists
│   └── RouterOutdated           router_outdated       409   made for versions that are gone
├── TrainingDataError            training_data         400   a line of a training file
├── PolicyError                  policy_invalid        400   the operator's policy is wrong
│   ├── PolicyNotFound           policy_not_found      404   no such version is kept
│   └── PolicyConflict           policy_conflict       409   changed meanwhile, or a file has it
├── RequestError                 invalid_request       400   the caller's request; names a param
│   ├── AuthenticationFailed     invalid_api_key       401
│   ├── PermissionDenied         permission_denied     403
│   ├── ModelNotFound            model_not_found       404   unknown, or not this tenant's
│   ├── DecisionNotFound         decision_not_found    404
│   ├── PromptTooLong            context_length_exceeded 400
│   ├── GrammarTooComplex        grammar_too_complex   400   cannot be followed within the limits
│   ├── TooManyFailedKeys        too_many_failed_keys  429   of one client address
│   └── PayloadTooLarge          payload_too_large     413
├── QuotaExceeded                rate_limit_exceeded   429   retryable
├── Overloaded                   overloaded            503   retryable
├── DeadlineExceeded             deadline_exceeded     504
├── StoreUnavailable             store_unavailable     503   Redis cannot be reached; retryable
├── DecisionRejected             decision_rejected     500   a stored decision failed its checks
├── ReplicaLost                  replica_lost          503   retryable
├── Starting                     starting              503   retryable
├── EngineError                  engine_error          500   a step failed
└── IntegrityError               integrity             500   a pool's sums do not add up
"""

from typing import ClassVar


class BraidError(Exception):
    """Base of all Braid errors: a message for people, a stable code for programs."""

    code: ClassVar[str] = "server_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        """Whole seconds until another try may succeed, where the error is retryable."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.param, self.retry_after_s)


def _rebuild(
    cls: type[BraidError], message: str, param: str | None, retry_after_s: int
) -> BraidError:
    """Rebuild an error in another process: pickle cannot pass its keyword-only arguments."""
    return cls(message, param=param, retry_after_s=retry_after_s)


class ConfigError(BraidError):
    """A file, flag or environment variable of the operator is wrong; the message has its path."""

    code = "config_invalid"


class ModelSourceError(BraidError):
    """The base model cannot be found, fetched or verified."""

    code = "model_source"


class AdapterError(BraidError):
    """An adapter cannot be served."""

    code = "adapter_invalid"
    status = 400


class AdapterUnsupported(AdapterError):
    """The adapter uses a PEFT feature that Braid refuses, named in the message."""

    code = "adapter_unsupported"


class AdapterMalformed(AdapterError):
    """A file is missing, truncated, not in its format, or disagrees with another."""

    code = "adapter_malformed"


class AdapterPickle(AdapterError):
    """The weights are a pickle, which is never opened."""

    code = "adapter_pickle"


class AdapterWrongBase(AdapterError):
    """The adapter was made for another base model, by its digest or its shapes."""

    code = "adapter_wrong_base"


class AdapterNotFinite(AdapterError):
    """A tensor holds NaN or infinity."""

    code = "adapter_not_finite"


class AdapterRankTooHigh(AdapterError):
    """A module's rank is above the operator's limit."""

    code = "adapter_rank_too_high"


class AdapterTooLarge(AdapterError):
    """More bytes than a limit allows, as declared or as received."""

    code = "adapter_too_large"
    status = 413


class AdapterTooManyFiles(AdapterError):
    """More files or archive members than the limit allows."""

    code = "adapter_too_many_files"
    status = 413


class AdapterUnsafePath(AdapterError):
    """A symlink, hard link, device, or a path that leads out of the adapter's folder."""

    code = "adapter_unsafe_path"


class AdapterDuplicateFile(AdapterError):
    """A file name occurs more than once, so it is unclear which file is meant."""

    code = "adapter_duplicate_file"


class AdapterSourceError(AdapterError):
    """The source failed while it was read."""

    code = "adapter_source_failed"
    status = 502
    retryable = True


class AdapterSourceRefused(AdapterSourceError):
    """The operator's configuration does not allow this source."""

    code = "adapter_source_refused"
    status = 403
    retryable = False


class AdapterDriverMissing(AdapterSourceError):
    """The package that speaks this scheme is not installed."""

    code = "adapter_driver_missing"
    status = 501
    retryable = False


class AdapterSourceNotFound(AdapterSourceError):
    """The source has no such folder, repository, revision or file."""

    code = "adapter_source_not_found"
    status = 404
    retryable = False


class AdapterSourceTimeout(AdapterSourceError):
    """The source sent nothing, or not all, within its time."""

    code = "adapter_source_timeout"
    status = 504


class AdapterSizeMismatch(AdapterSourceError):
    """The source sent another number of bytes than it announced."""

    code = "adapter_size_mismatch"


class AdapterStoreError(AdapterError):
    """The content store's disk refused an operation."""

    code = "adapter_store_failed"
    status = 500


class AdapterStoreFull(AdapterStoreError):
    """No space left, or a disk quota used up, where the store is."""

    code = "adapter_store_full"
    status = 507
    retryable = True


class AdapterNotStored(AdapterError):
    """The content store has no version of this digest."""

    code = "adapter_not_stored"
    status = 404


class AdapterCorrupt(AdapterError):
    """The files stored under a digest are not that version."""

    code = "adapter_corrupt"
    status = 500


class AdapterNotFound(AdapterError):
    """The registry has no adapter of this name, or no such version."""

    code = "adapter_not_found"
    status = 404


class AdapterConflict(AdapterError):
    """An adapter's name does not point to the version that the caller expected."""

    code = "adapter_conflict"
    status = 409


class AdapterInUse(AdapterError):
    """A name still points to the version, or it is pinned."""

    code = "adapter_in_use"
    status = 409


class AdapterLoadFailed(AdapterError):
    """The adapter's bytes could not be read, verified or placed."""

    code = "adapter_load_failed"
    status = 503
    retryable = True


class AdapterCapacity(AdapterError):
    """Every slot is held by adapters in use."""

    code = "adapter_capacity"
    status = 503
    retryable = True


class RouterError(BraidError):
    """A router's artifact or settings cannot be served; the message names file or field."""

    code = "router_invalid"
    status = 400


class RouterNotFound(RouterError):
    """The registry has no router of this name."""

    code = "router_not_found"
    status = 404


class RouterConflict(RouterError):
    """A router of this name exists, and was not to be replaced."""

    code = "router_conflict"
    status = 409


class RouterOutdated(RouterError):
    """A router was made for versions of its adapters that are no longer there."""

    code = "router_outdated"
    status = 409


class TrainingDataError(BraidError):
    """A training or evaluation file is wrong; the message has file, line and field."""

    code = "training_data"
    status = 400


class PolicyError(BraidError):
    """An operator's policy is wrong; the message has a line for each entry."""

    code = "policy_invalid"
    status = 400


class PolicyNotFound(PolicyError):
    """No version of the policy with this number is kept."""

    code = "policy_not_found"
    status = 404


class PolicyConflict(PolicyError):
    """Another version is in force than the caller expected, or a file manages the policy."""

    code = "policy_conflict"
    status = 409


class RequestError(BraidError):
    """The caller's request is wrong; ``param`` names the field."""

    code = "invalid_request"
    status = 400


class AuthenticationFailed(RequestError):
    """No key, or a key that belongs to no tenant."""

    code = "invalid_api_key"
    status = 401


class PermissionDenied(RequestError):
    """A valid key without the right to this operation."""

    code = "permission_denied"
    status = 403


class ModelNotFound(RequestError):
    """No model, adapter or router of this name is visible to the tenant."""

    code = "model_not_found"
    status = 404


class DecisionNotFound(RequestError):
    """No decision of this id is kept for the tenant."""

    code = "decision_not_found"
    status = 404


class PromptTooLong(RequestError):
    """The prompt alone does not fit the context window."""

    code = "context_length_exceeded"


class GrammarTooComplex(RequestError):
    """A structured answer cannot be followed within the grammar's limits."""

    code = "grammar_too_complex"


class TooManyFailedKeys(RequestError):
    """One client address sent too many unknown keys."""

    code = "too_many_failed_keys"
    status = 429


class PayloadTooLarge(RequestError):
    """The body is larger than the server reads."""

    code = "payload_too_large"
    status = 413


class QuotaExceeded(BraidError):
    """The tenant's quota is used up for now."""

    code = "rate_limit_exceeded"
    status = 429
    retryable = True


class Overloaded(BraidError):
    """The cluster has no room to queue the request."""

    code = "overloaded"
    status = 503
    retryable = True


class DeadlineExceeded(BraidError):
    """The request's deadline passed before it finished."""

    code = "deadline_exceeded"
    status = 504


class StoreUnavailable(BraidError):
    """Redis cannot be reached or does not answer in time."""

    code = "store_unavailable"
    status = 503
    retryable = True


class DecisionRejected(BraidError):
    """A decision failed its signature, expiry, tenant or version check."""

    code = "decision_rejected"


class ReplicaLost(BraidError):
    """The replica that served the request went away."""

    code = "replica_lost"
    status = 503
    retryable = True


class Starting(BraidError):
    """No replica runs; the first one is being started."""

    code = "starting"
    status = 503
    retryable = True


class EngineError(BraidError):
    """An engine step failed."""

    code = "engine_error"


class IntegrityError(BraidError):
    """A ledger contradicts itself: a defect, never the caller's fault."""

    code = "integrity"


def error_from_code(code: str, message: str) -> BraidError:
    """Return the error of a stable code, for errors that arrive as data from another process.

    An unknown code (a newer peer's) becomes an ``EngineError`` that keeps the code in its message.
    """
    for cls in _subclasses(BraidError):
        if cls.code == code:
            return cls(message)
    return EngineError(f"{code}: {message}")


def _subclasses(cls: type[BraidError]) -> list[type[BraidError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found.extend(_subclasses(sub))
    return found
