"""What is learnt and from whose data: data sets, partitions over clients, models."""
