"""`search`: which layers need which window, on one checkpoint, from one load of its weights and without training.

Every setting, a window for each layer, is held against the same model with all windows full: mean KL divergence per token on
held-out text, and how well facts are looked up (`probe`). First each layer alone at each window (`sensitivity`), then whole
settings under a budget of state bytes or latency (`additive`, `greedy`, `evolution`), beside settings of the usual families at
the same budget (`families`), all confirmed on text that the search has not seen (`confirm`).

    nha-eval search nha:smollm2-135m --text debian --budget 0.25 --time 50

`run.search(spec)` is the whole of it. Each evaluated setting is in the run folder's journal, so that the same command goes on
where it stopped.
"""
