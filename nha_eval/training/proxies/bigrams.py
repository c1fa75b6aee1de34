"""Bigrams: how often they come in training, and which tokens complete one that stood in the context before.

A token is an associative-recall hit where it is the last of a bigram that came earlier in its sequence, and at most `rare`
times in training (Arora et al. 2023, "Zoology", arXiv 2312.04927, who put 1,250 times in 10 G tokens): what it is can then be
looked up in the context and hardly be known by heart.
"""

from __future__ import annotations

import numpy as np

_ROWS = 2048  # training sequences counted at once


def codes(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """[..., N] -> [..., N - 1] uint64: a number for each token and the one before it."""
    wide = tokens.astype(np.uint64)
    return wide[..., :-1] * np.uint64(vocabulary) + wide[..., 1:]


def count_bigrams(train: np.ndarray, tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """[N] int64: how often tokens[i - 1], tokens[i] stand beside each other in the sequences of train [S, T]; 0 at i = 0.

    Exact. Of train only what one model sees is given, so text that is seen twice counts twice; nothing is counted across the
    ends of its sequences, which no model sees beside each other.
    """
    wanted, place = np.unique(codes(tokens, vocabulary), return_inverse=True)
    found = np.zeros(len(wanted), np.int64)
    for begin in range(0, len(train), _ROWS):
        seen, times = np.unique(codes(np.asarray(train[begin : begin + _ROWS]), vocabulary), return_counts=True)
        at = np.searchsorted(wanted, seen)
        known = at < len(wanted)
        known[known] = wanted[at[known]] == seen[known]
        found[at[known]] += times[known]
    return np.concatenate([[0], found[place]])


def repeated(blocks: np.ndarray, vocabulary: int) -> np.ndarray:
    """[B, T] bool: whether the token and the one before it stood beside each other earlier in the same block [B, T]."""
    found = np.zeros(blocks.shape, bool)
    for row, pairs in zip(found, codes(blocks, vocabulary), strict=True):
        _, first, place = np.unique(pairs, return_index=True, return_inverse=True)
        row[1:] = first[place] < np.arange(len(pairs))
    return found
