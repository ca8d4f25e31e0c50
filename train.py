"""From event logs or playlists to a tracked MLflow run: checkpoint, metrics, `recommendations.jsonl`."""

from segue.verbs.train import train

if __name__ == "__main__":
    train()
