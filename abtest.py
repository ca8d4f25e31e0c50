"""From event logs to a verdict: the effect of each treatment with its interval, and checks of the experiment."""

from segue.verbs.abtest import abtest

if __name__ == "__main__":
    abtest()
