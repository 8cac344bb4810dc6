"""The ledger's statements. Amounts are whole nanojoules; `?` are, in order, what each call site passes."""

HOLD = """
UPDATE account SET reserved_nj = reserved_nj + ?1 WHERE id = ?2 AND spent_nj + reserved_nj + ?1 <= budget_nj
"""
RESERVE = """
INSERT INTO reservation (account, cause, upper_nj, expected_nj, process, opened_at) VALUES (?, ?, ?, ?, ?, ?)
"""
TERMS = "SELECT id, budget_nj, period_s, per_charge, floor_frac FROM account WHERE name = ?"
OPEN = """
INSERT INTO account (name, budget_nj, period_s, per_charge, floor_frac, began_s) VALUES (?, ?, ?, ?, ?, ?)
"""
CHANGE = "UPDATE account SET budget_nj = ?, period_s = ?, per_charge = ?, floor_frac = ? WHERE id = ?"
SETTLE = "DELETE FROM reservation WHERE id = ? AND account = ? RETURNING upper_nj, expected_nj, cause"
BOOK = "UPDATE account SET reserved_nj = reserved_nj - ?, spent_nj = spent_nj + ? WHERE id = ?"
PAST = "SELECT began_s, ended_s, cause, spent_nj FROM period WHERE account = ? ORDER BY ended_s"
SUMS = "SELECT budget_nj, spent_nj, reserved_nj FROM account WHERE id = ?"
PERIOD = "SELECT began_s, period_s, per_charge, charged FROM account WHERE id = ?"
FILE = "UPDATE spend SET spent_nj = spent_nj + ? WHERE account = ? AND cause = ?"
FILE_MEASURED = """
UPDATE spend SET spent_nj = spent_nj + ?1, measured_nj = measured_nj + ?1,
    ratio = CASE WHEN ?2 IS NULL THEN ratio WHEN ratio IS NULL OR ?2 >= ratio THEN ?2 ELSE ratio + (?2 - ratio) / 20 END
WHERE account = ?3 AND cause = ?4
"""
