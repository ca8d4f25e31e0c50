"""Statistics: ranking metrics, and intervals and tests of every mean and difference that Segue reports."""
