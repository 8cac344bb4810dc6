"""From an update to bytes and back: choose, quantize, code, frame."""
