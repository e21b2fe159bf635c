"""Lists whose items are not all alike: maximal marginal relevance over the embeddings."""

from __future__ import annotations

import numpy as np
import torch

POOL, LEAST_POOL = 10, 100
"""A list of k is chosen from the 10 k best, at least 100."""


def pool_size(k: int) -> int:
    """How many of the best items a list of ``k`` is chosen from."""
    return max(POOL * k, LEAST_POOL)


def diversified(
    rows: np.ndarray, scores: np.ndarray, vectors: torch.Tensor, k: int, diversity: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lists of the best with the largest marginal relevance, in the order they were chosen.

    The next item is the one with the largest (1 - diversity) s - diversity c, where s is its score,
    0 for the worst and 1 for the best of the pool, and c the largest cosine of its embedding with
    one that was chosen before. The first is the best by score.

    Args:
        rows: of items by score, best first, int64 ``[num_queries, pool]``; -1 behind the last.
        scores: theirs, float32 of the same shape.
        vectors: embeddings of all items, ``[num_items, dim]``.
        k: length of the lists.
        diversity: between 0 (by score alone) and 1.

    Returns:
        Rows and scores, ``[num_queries, k]``, and the price, float32 ``[num_queries]``: by how much
        the mean score is lower than that of the ``k`` best.

    Source: Carbonell and Goldstein (1998), The use of MMR, diversity-based reranking for reordering
    documents and producing summaries, section 2; here with scores on the scale of cosines.
    """
    k = min(k, rows.shape[1])
    out_rows = np.full((len(rows), k), -1, np.int64)
    out_scores = np.full((len(rows), k), -np.inf, np.float32)
    price = np.zeros(len(rows), np.float32)
    for query, (some, values) in enumerate(zip(rows, scores, strict=True)):
        num = int((some >= 0).sum())
        if not num:
            continue
        some, values = some[:num], values[:num].astype(np.float64)
        unit = torch.nn.functional.normalize(vectors[torch.from_numpy(some).to(vectors.device)])
        cosines = (unit @ unit.T).cpu().numpy()
        spread = values[0] - values[-1]
        worth = (1 - diversity) * (values - values[-1]) / (spread if spread > 0 else 1.0)
        chosen = [0]
        nearest = cosines[0].copy()
        while len(chosen) < min(k, num):
            gain = worth - diversity * nearest
            gain[chosen] = -np.inf
            best = int(np.argmax(gain))
            chosen.append(best)
            np.maximum(nearest, cosines[best], out=nearest)
        out_rows[query, : len(chosen)] = some[chosen]
        out_scores[query, : len(chosen)] = scores[query, chosen]
        price[query] = values[: len(chosen)].mean() - values[chosen].mean()
    return out_rows, out_scores, price
