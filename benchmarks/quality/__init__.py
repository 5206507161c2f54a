"""How well held-out graphs are ranked, by everything that gbr offers and by baselines.

Protocols say which graphs are learnt from and which are ranked (:mod:`.folds`), a contender is one way to rank them
(:mod:`.contenders`); predictions are kept (:mod:`.run`), then scored and written as a page (:mod:`.page`).
"""
