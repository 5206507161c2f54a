"""Models behind one protocol: LightGBM, XGBoost, the cost model and their ensembles."""
