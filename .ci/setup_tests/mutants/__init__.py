"""`make mutants`: small faults are put into the code, one at a time; a test must fail."""
