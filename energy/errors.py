"""What can go wrong, as a tree. A message says what, where and the remedy, with the values.

`BudjouleError` (exit code 1)
    `UsageError` (2): a model, shape, device, flag or configuration that cannot be used as given
    `MeterError` (1): a counter that is absent, refused or vanished
    `LedgerError` (1): a ledger file that is corrupt, locked or opened with another budget
        `BudgetExhausted` (3): a reservation larger than what remains
    `PayloadError` (1): bytes that are not a valid frame
    `RunError` (1): a run folder that is missing, incomplete or in the way
"""


class BudjouleError(Exception):
    """Any error that a caller can act on; its message is one line that names the remedy."""

    exit_code = 1


class UsageError(BudjouleError):
    """Input that cannot be used as given."""

    exit_code = 2


class MeterError(BudjouleError):
    """A counter that is absent, refused or vanished."""


class LedgerError(BudjouleError):
    """A ledger that cannot be opened or trusted."""


class BudgetExhausted(LedgerError):  # noqa: N818 - the state a loop ends in, not a fault
    """A reservation asks for more joules than remain."""

    exit_code = 3


class PayloadError(BudjouleError):
    """Bytes that are not a valid frame."""


class RunError(BudjouleError):
    """A run folder that is missing, incomplete or in the way."""
