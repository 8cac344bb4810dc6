"""Behind `bj.trace`: record the aten ops of one step on tensors without data, and give each to its module and phase."""
