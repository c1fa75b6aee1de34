"""MQAR with every mixer: small models trained on `tasks.synthetic.mqar`, swept over sizes of state, learning rates and seeds.

python run_eval.py train mqar-quick --workers 2
"""
