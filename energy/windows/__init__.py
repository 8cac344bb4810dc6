"""What a meter counted between two moments: windows that wrap, nest and overlap, their books, their intervals, their totals."""
