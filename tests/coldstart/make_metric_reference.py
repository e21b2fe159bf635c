"""Write ``metric_reference.json``: random lists, and what two independent libraries say of them.

Neither fits beside our numpy and pandas, so that they run in an environment of their own:

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install rectools lenskit "pyarrow<21"
    /tmp/reference/bin/python tests/coldstart/make_metric_reference.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import lenskit.metrics as lk
import numpy as np
import pandas as pd
import rectools.metrics as rt
from lenskit.data import ItemList

USERS, ITEMS, K = 60, 40, 10


def main() -> None:
    rng = np.random.default_rng(0)
    lists = np.argsort(rng.random((USERS, ITEMS)), axis=1)[:, :K]
    relevant = [np.sort(rng.permutation(ITEMS)[: rng.integers(1, 16)]) for _ in range(USERS)]
    expected = {
        f"rectools {version('rectools')}": by_rectools(lists, relevant),
        f"lenskit {version('lenskit')}": by_lenskit(lists, relevant),
    }
    content = {
        "lists": lists.tolist(),
        "relevant": [row.tolist() for row in relevant],
        "expected": expected,
    }
    path = Path(__file__).with_name("metric_reference.json")
    path.write_text(json.dumps(content) + "\n")


def by_rectools(lists: np.ndarray, relevant: list[np.ndarray]) -> dict[str, list[float]]:
    users = np.arange(len(lists))
    recommended = pd.DataFrame(
        {
            "user_id": np.repeat(users, K),
            "item_id": lists.ravel(),
            "rank": np.tile(np.arange(1, K + 1), len(lists)),
        }
    )
    true = pd.DataFrame(
        {
            "user_id": np.repeat(users, [len(r) for r in relevant]),
            "item_id": np.concatenate(relevant),
        }
    )
    metrics = {
        "ndcg": rt.NDCG(K, divide_by_achievable=True),
        "recall": rt.Recall(K),
        "precision": rt.Precision(K),
        "hit_rate": rt.HitRate(K),
        "mrr": rt.MRR(K),
    }
    return {
        name: metric.calc_per_user(recommended, true).reindex(users).tolist()
        for name, metric in metrics.items()
    }


def by_lenskit(lists: np.ndarray, relevant: list[np.ndarray]) -> dict[str, list[float]]:
    metrics = {
        # Its default is the discount of 2002, which leaves the second place as it is.
        "ndcg": lk.NDCG(K, discount=lambda rank: np.log2(rank + 1)),
        # Given a length, it divides by no more than that.
        "recall": lk.Recall(),
        "precision": lk.Precision(K),
        "hit_rate": lk.Hit(K),
        "mrr": lk.RecipRank(K),
    }
    pairs = [
        (ItemList(item_ids=row, ordered=True), ItemList(item_ids=true))
        for row, true in zip(lists, relevant, strict=True)
    ]
    return {
        name: [float(metric.measure_list(*pair)) for pair in pairs]
        for name, metric in metrics.items()
    }


if __name__ == "__main__":
    main()
