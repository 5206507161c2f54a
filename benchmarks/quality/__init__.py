"""How well held-out graphs are ranked, by everything gbr offers and by what it is to be measured against.

A protocol says which graphs are learnt from and which are ranked (:mod:`.folds`), a contender is one way to rank them
(:mod:`.contenders`, :mod:`.columns`); predictions are kept as they come (:mod:`.predictions`), then scored
(:mod:`.figures`) and written down (:mod:`.page`).
"""
