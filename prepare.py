"""From event logs or playlists to pairs on disk with a manifest, on one machine or on Spark."""

from segue.verbs.prepare import prepare

if __name__ == "__main__":
    prepare()
