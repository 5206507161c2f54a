"""How well held-out graphs are ranked, by all models of gbr and by baselines.

:mod:`.folds` has the protocols (which graphs are trained on and which are ranked), :mod:`.contenders` the models and
baselines, :mod:`.run` fits them and stores predictions, :mod:`.page` scores those and writes the page.
"""
