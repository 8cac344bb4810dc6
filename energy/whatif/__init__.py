"""Many settings at once: clocks on one workload, sweeps over settings, and the best of them."""
