"""What each aten op does, one file a family: FLOP, elements, bytes and launches from its tensors."""
