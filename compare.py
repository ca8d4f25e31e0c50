"""From MLflow runs to an answer: which set-up is best, and is the difference real?"""

from segue.verbs.compare import compare

if __name__ == "__main__":
    compare()
