"""From a world and a recommender for each arm to event logs in the format of the service."""

from segue.verbs.simulate import simulate

if __name__ == "__main__":
    simulate()
