"""Errors of the kernel layer, which cannot import the cluster's tree. Callers map them."""


class BankIntegrityError(RuntimeError):
    """The adapter bank's books do not balance: a defect, never the caller's fault."""


class StaleBatchError(RuntimeError):
    """A batch was used after a later batch had reorganised the stacks it reads."""
