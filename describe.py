"""What data look like before training: numbers, warnings with remedies, `describe.json` and `describe.png`."""

from segue.verbs.describe import describe

if __name__ == "__main__":
    describe()
