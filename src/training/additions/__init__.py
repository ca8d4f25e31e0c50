"""New tracks for a finished run, without training: `train.py add=<run> catalogue=<tracks.json>`."""
