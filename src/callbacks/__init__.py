"""What happens during training besides training: ranking metrics, export, plots, lineage, resuming, pruning."""
