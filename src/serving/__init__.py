"""The REST service that plays recommendations to listeners and writes event logs."""
